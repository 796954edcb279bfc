// The picture of the page: tells Python where it was clicked, and takes dropped files.
// Everything is delegated to `element`: what lies inside is drawn anew with every answer.
const canvas = () => element.querySelector(".canvas");
const mode = () => document.querySelector("#mode input:checked")?.value;
let start = null;

function spot(event) {
  const { left, top, width, height } = canvas().getBoundingClientRect();
  const share = (offset, whole) => Math.min(Math.max(offset / whole, 0), 1);
  const x = share(event.clientX - left, width) * canvas().dataset.width;
  const y = share(event.clientY - top, height) * canvas().dataset.height;
  return [Math.min(x, canvas().dataset.width - 0.01), Math.min(y, canvas().dataset.height - 0.01)];
}

function frame(marker, from, to) {
  const percent = (value, whole) => `${(100 * value) / whole}%`;
  const { width, height } = canvas().dataset;
  marker.hidden = false;
  marker.style.left = percent(Math.min(from[0], to[0]), width);
  marker.style.top = percent(Math.min(from[1], to[1]), height);
  marker.style.width = percent(Math.abs(from[0] - to[0]), width);
  marker.style.height = percent(Math.abs(from[1] - to[1]), height);
}

element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".canvas") || event.button !== 0) return;
  start = spot(event);
  if (mode() === "box") event.target.setPointerCapture(event.pointerId);
});

element.addEventListener("pointermove", (event) => {
  if (start && mode() === "box") frame(element.querySelector(".band"), start, spot(event));
});

element.addEventListener("pointerup", (event) => {
  if (!start || !canvas()) return;
  trigger("select", { start, end: spot(event) });
  start = null;
});

element.addEventListener("pointercancel", () => { start = null; });

element.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!canvas() || (!move && event.key !== "Enter")) return;
  event.preventDefault();
  const { width, height } = canvas().dataset;
  const at = canvas().at ?? [width / 2, height / 2];
  if (event.key === "Enter") {
    if (mode() === "box" && !canvas().corner) canvas().corner = at;
    else trigger("select", { start: canvas().corner ?? at, end: at });
    return;
  }
  const step = Math.max(width, height) / (event.shiftKey ? 256 : 50);
  const inside = (value, whole) => Math.min(Math.max(value, 0), whole - 0.01);
  canvas().at = [inside(at[0] + step * move[0], width), inside(at[1] + step * move[1], height)];
  frame(element.querySelector(".cross"), canvas().at, canvas().at);
  if (canvas().corner) frame(element.querySelector(".band"), canvas().corner, canvas().at);
});

element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  const chooser = document.querySelector("#pictures input[type=file]");
  if (!event.dataTransfer.files.length || !chooser) return;
  chooser.files = event.dataTransfer.files;
  chooser.dispatchEvent(new Event("change", { bubbles: true }));
});
