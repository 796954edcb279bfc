"""The numbers that the papers report: on real photographs and with models of billions of weights, so that they are
printed beside those of the embedded models and not compared with them."""

from __future__ import annotations

UNKNOWN = "not recoverable"  # printed as a figure in the paper, whose text does not repeat it

# SELF1E, Tables 5, 6, 7 and 11, as far as its text gives them: cIoU on RefCOCO / RefCOCO+ / RefCOCOg, each a mean over
# the splits, for SELF1E-2B
SELF1E: dict[str, str] = {
    "SELF1E": "80.0 / 74.3 / 77.4 (Table 7)",
    "F_IMG alone": f"{UNKNOWN} (Table 5)",
    "F_V1^HQ alone": "+2.1 (val), +2.8 (testA) over F_IMG; 75.2 (testB), 76.3 with the residual (Table 5)",
    "no un-shuffle": "78.9 / 73.5 / 76.3 (Table 6)",
    "un-shuffle of the residual alone": "no un-shuffle +0.4 (Table 6)",
    "one MLP for all": "no un-shuffle +0.6 (Table 6)",
    "three MLPs": "no un-shuffle +0.6 (Table 6)",
    "causal attention": "78.4 / 72.7 / 75.5 (Table 7)",
    "images see each other": "causal +0.5 (Table 7)",
    "images see all words": f"above causal, {UNKNOWN} (Table 7)",
    "everybody sees everybody": f"above causal, {UNKNOWN} (Table 7)",
    "scanning": "replication -0.6 / -0.2 / not told (Table 11)",
    "without the third MLP": "in the authors' code alone",
    "without the coarse mask's loss": "in the authors' code alone",
}

# all expressions about an image are in one conversation, which contains the right answers to the earlier ones
TOGETHER = "one conversation per image"
# Headlines of the papers' own tables. cIoU on RefCOCO val/testA/testB, RefCOCO+ val/testA/testB, RefCOCOg val/test
REFERRING: dict[str, tuple[str, str, str]] = {
    "LENS, LLaVA-1.5-7B": ("76.5 / 78.3 / 71.4", "66.1 / 71.7 / 58.3", "69.4 / 70.6"),
    f"MLLMSeg, InternVL2-8B ({TOGETHER})": ("79.2 / 81.0 / 77.5", "73.9 / 77.6 / 68.6", "77.3 / 78.6"),
    f"MLLMSeg, InternVL2.5-8B ({TOGETHER})": ("81.0 / 82.4 / 78.7", "76.4 / 79.1 / 72.5", "79.9 / 80.8"),
    "SELF1E-2B": ("80.2 / 82.1 / 77.6", "74.6 / 79.1 / 69.2", "77.0 / 77.8"),
    "SELF1E-8B": ("82.5 / 83.8 / 80.1", "77.6 / 81.6 / 73.7", "79.1 / 79.8"),
    "SELF1E-SEG-2B": ("84.3 / 85.4 / 82.3", "78.9 / 83.5 / 75.1", "80.4 / 81.0"),
    "SELF1E-SEG-8B": ("84.7 / 86.2 / 83.4", "80.2 / 84.2 / 77.0", "82.1 / 82.8"),
}
# gIoU / cIoU on ReasonSeg val and test
REASONING: dict[str, tuple[str, str]] = {
    "LENS, LLaVA-1.5-7B": ("61.4 / 65.3", "56.5 / 57.3"),
    "SELF1E-2B": ("59.4 / 68.8", "57.3 / 57.6"),
    "SELF1E-8B": ("65.9 / 69.7", "65.7 / 67.0"),
    "LISA-7B, fine-tuned (quoted by SELF1E)": ("52.9 / 54.0", "47.3 / 48.4"),
    "UFO (quoted by SELF1E)": (f"60.0 / {UNKNOWN}", UNKNOWN),
}
# gIoU / cIoU / share of absent targets refused on gRefCOCO val, testA, testB
GENERALISED: dict[str, tuple[str, str, str]] = {
    f"MLLMSeg, InternVL2-8B ({TOGETHER})": ("73.2 / 70.0 / 71.1", "75.2 / 75.4 / 68.5", "67.9 / 67.1 / 63.1"),
    f"MLLMSeg, InternVL2.5-8B ({TOGETHER})": ("75.1 / 71.6 / 73.2", "77.0 / 76.9 / 72.4", "69.7 / 68.5 / 65.5"),
    "SELF1E-8B, zero-shot": ("37.5 / 44.4 / –", "53.2 / 57.5 / –", "45.6 / 50.9 / –"),
}
