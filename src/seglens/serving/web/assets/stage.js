// The picture of the page: reports clicks to Python, and accepts dropped files.
// All events are handled at `element`, as everything inside it is replaced with every answer.
const canvas = () => element.querySelector(".canvas");
const mode = () => document.querySelector("#mode input:checked")?.value;
const NARROW = matchMedia("(max-width: 760px)");
let start = null, at = null, corner = null, focus = null;

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
  if (event.target !== canvas() || (!move && event.key !== "Enter")) return;
  event.preventDefault();
  const { width, height } = canvas().dataset;
  at ??= [width / 2, height / 2];
  if (event.key === "Enter") {
    if (mode() === "box" && !corner) corner = at;
    else { trigger("select", { start: corner ?? at, end: at }); corner = null; }
    return;
  }
  const step = Math.max(width, height) / (event.shiftKey ? 256 : 50);
  const inside = (value, whole) => Math.min(Math.max(value, 0), whole - 0.01);
  at = [inside(at[0] + step * move[0], width), inside(at[1] + step * move[1], height)];
  frame(element.querySelector(".cross"), at, at);
  if (corner) frame(element.querySelector(".band"), corner, at);
});

// The legend, and undo.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) trigger("edit", { act: button.dataset.act, id: Number(button.dataset.id ?? 0) });
});

element.addEventListener("change", ({ target }) => {
  const id = target.dataset.id;
  if (id === undefined) return;
  for (const layer of element.querySelectorAll(`[data-layer="${id}"]`)) layer.toggleAttribute("hidden", !target.checked);
  trigger("input", { id: Number(id), shown: target.checked });
});

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.shiftKey || event.key.toLowerCase() !== "z") return;
  if (event.target.matches("input[type=text], textarea") && event.target.value) return; // undo in the text that is being typed
  event.preventDefault();
  element.querySelector(".undo:not(:disabled)")?.click();
});

// A control that is replaced loses the focus: its new copy gets it back.
document.addEventListener("focusin", ({ target }) => {
  const { act, id } = target.dataset;
  const same = act ? `button[data-act="${act}"]${id ? `[data-id="${id}"]` : ""}` : id ? `input[data-id="${id}"]` : ".canvas";
  focus = element.contains(target) ? same : null;
});

let size = null;
watch("value", () => {
  const value = props.value;
  try { if (value) sessionStorage.setItem("seglens", value.ticket); } catch { /* then a reload starts a new visit */ }
  if (!value) return;
  if (size !== `${value.width} ${value.height}`) at = corner = null;
  size = `${value.width} ${value.height}`;
  for (const box of element.querySelectorAll(".switch input")) box.checked = box.hasAttribute("checked");
  if (at) frame(element.querySelector(".cross"), at, at);
  if (focus && document.activeElement === document.body) (element.querySelector(focus) ?? canvas()).focus({ preventScroll: true });
  if (!value.layers.length || !NARROW.matches) return;
  canvas().scrollIntoView({ block: "start" }); // picture, reply and message box fit on the screen from here
  const legend = element.querySelector(".legend"), chosen = element.querySelector(".chosen");
  if (chosen) legend.scrollTop = chosen.offsetTop - legend.offsetTop;
});

// The last line of the chat is fully visible.
const chat = document.querySelector("#chat");
const log = () => chat.querySelector("[role=log]");
const end = () => { if (log()) log().scrollTop = log().scrollHeight; };
const growing = new ResizeObserver(end);
if (chat) new MutationObserver(() => { end(); if (log()) growing.observe(log().firstElementChild); })
  .observe(chat, { childList: true, subtree: true });

// On a phone the keyboard takes part of the screen: the message box stays above it.
const meta = document.querySelector("meta[name=viewport]");
if (meta) meta.content += ", interactive-widget=resizes-content";
visualViewport?.addEventListener("resize", () => { // where the browser does not resize the page (iOS)
  const covered = Math.max(0, innerHeight - visualViewport.height - visualViewport.offsetTop);
  document.documentElement.style.setProperty("--keyboard", `${visualViewport.scale > 1 ? 0 : covered}px`);
});

element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  const chooser = document.querySelector("#pictures input[type=file]");
  if (!event.dataTransfer.files.length || !chooser) return;
  chooser.files = event.dataTransfer.files;
  chooser.dispatchEvent(new Event("change", { bubbles: true }));
});
