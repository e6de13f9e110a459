// The page of a new scan: send it, show the answer, and lay the heat map over the browser's own copy.
import { draw } from "./picture.js";

const byId = (id) => document.getElementById(id);
const csrf = document.querySelector('meta[name="csrf"]').content;
let chosen = [];

function list() {
  byId("chosen").replaceChildren(...chosen.map((file, position) => {
    const item = document.createElement("li");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "quiet";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => { chosen.splice(position, 1); list(); byId("files").focus(); });
    item.append(`${file.name} (${size(file.size)})`, remove);
    return item;
  }));
  byId("send").disabled = chosen.length === 0;
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function take(files) {
  chosen = [...chosen, ...files];
  list();
}

function say(text) { byId("status").textContent = text; }

function complain(text) {
  say("");
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

async function ask() {
  const form = new FormData();
  for (const file of chosen) form.append("files", file, file.name);
  if (byId("task").value) form.append("task", byId("task").value);
  const response = await fetch("/api/predict", { method: "POST", body: form, headers: { "X-CSRF-Token": csrf } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail || `The scan was not answered (${response.status}).`);
  return body;
}

async function show(answer) {
  const card = await fetch(`/cases/${encodeURIComponent(answer.id)}/card`);
  if (!card.ok) throw new Error("The answer was given, but can't be shown here; look under My cases.");
  byId("card").innerHTML = await card.text();
  byId("map").src = answer.map ? `data:image/png;base64,${answer.map}` : "";
  byId("map").hidden = !answer.map;
  const drawn = await draw(answeredFiles(answer), answer.shown ?? 0, byId("scan-view"));
  byId("frame").classList.toggle("alone", !drawn.shown);
  byId("scan-view").hidden = !drawn.shown;
  byId("layer").hidden = !drawn.shown || !answer.map;
  byId("caption").textContent = drawn.shown
    ? `${drawn.what}. Orange marks what spoke for ${words(answer.map_class)}.`
    : `The heat map alone: ${drawn.why}. Orange marks what spoke for ${words(answer.map_class)}.`;
  strength();
  byId("result").hidden = false;
  byId("result").focus();
}

// The files that the answer's slices are counted in; none where a name leaves it open which was left out.
function answeredFiles(answer) {
  const names = (answer.left_out ?? []).map((entry) => entry.file);
  const files = chosen.filter((file) => !names.includes(file.name.slice(-60)));
  return files.length === chosen.length - names.length ? files : [];
}

function words(name) { return name ? name.replaceAll("_", " ") : "the positive class"; }

function strength() {
  byId("map").style.opacity = byId("layer").hidden ? "1" : String(byId("strength").value / 100);
}

byId("files").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
byId("strength").addEventListener("input", strength);
for (const kind of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
byId("scan").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!chosen.length) return;
  byId("problem").hidden = true;
  byId("result").hidden = true;
  byId("send").disabled = true;
  say("Reading the scan…");
  try {
    await show(await ask());
    say("");
  } catch (error) {
    complain(error instanceof TypeError ? "The connection failed. Check it and try again." : error.message);
  } finally {
    byId("send").disabled = chosen.length === 0;
  }
});
