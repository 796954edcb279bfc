"""How a head is trained: data, presets, the loop, and the folder of a run."""
