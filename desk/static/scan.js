// The page of a new scan: send it, show the answer, and overlay the heat map on the browser's own copy.
import { draw } from "./picture.js";

const byId = (id) => document.getElementById(id);
const csrfToken = document.querySelector('meta[name="csrf"]').content;
let selectedFiles = [];

function showSelection() {
  byId("chosen").replaceChildren(...selectedFiles.map((file, position) => {
    const item = document.createElement("li");
    const removeButton = document.createElement("button");
    removeButton.type = "button";
    removeButton.className = "quiet";
    removeButton.textContent = "Remove";
    removeButton.setAttribute("aria-label", `Remove ${file.name}`);
    removeButton.addEventListener("click", () => { selectedFiles.splice(position, 1); showSelection(); byId("files").focus(); });
    item.append(`${file.name} (${formatSize(file.size)})`, removeButton);
    return item;
  }));
  byId("send").disabled = selectedFiles.length === 0;
}

function formatSize(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function addFiles(files) {
  selectedFiles = [...selectedFiles, ...files];
  showSelection();
}

function showStatus(text) { byId("status").textContent = text; }

function showProblem(text) {
  showStatus("");
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

async function requestAnswer() {
  const form = new FormData();
  for (const file of selectedFiles) form.append("files", file, file.name);
  if (byId("task").value) form.append("task", byId("task").value);
  const response = await fetch("/api/predict", { method: "POST", body: form, headers: { "X-CSRF-Token": csrfToken } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail || `The scan was not answered (${response.status}).`);
  return body;
}

async function showAnswer(answer) {
  const card = await fetch(`/cases/${encodeURIComponent(answer.id)}/card`);
  if (!card.ok) throw new Error("There is an answer, but this page cannot show it; look under My cases.");
  byId("card").innerHTML = await card.text();
  byId("map").src = answer.map ? `data:image/png;base64,${answer.map}` : "";
  byId("map").hidden = !answer.map;
  const drawing = await draw(answeredFiles(answer), answer.shown ?? 0, byId("scan-view"));
  byId("frame").classList.toggle("alone", !drawing.isDrawn);
  byId("scan-view").hidden = !drawing.isDrawn;
  byId("layer").hidden = !drawing.isDrawn || !answer.map;
  byId("caption").textContent = drawing.isDrawn
    ? `${drawing.caption}. Orange marks the evidence for ${displayName(answer.map_class)}.`
    : `The heat map alone: ${drawing.reason}. Orange marks the evidence for ${displayName(answer.map_class)}.`;
  applyStrength();
  byId("result").hidden = false;
  byId("result").focus();
}

// The files whose slices the answer counts; empty if the name of a file that was left out is ambiguous.
function answeredFiles(answer) {
  const leftOutNames = (answer.left_out ?? []).map((entry) => entry.file);
  const files = selectedFiles.filter((file) => !leftOutNames.includes(file.name.slice(-60)));
  return files.length === selectedFiles.length - leftOutNames.length ? files : [];
}

function displayName(className) { return className ? className.replaceAll("_", " ") : "the positive class"; }

function applyStrength() {
  byId("map").style.opacity = byId("layer").hidden ? "1" : String(byId("strength").value / 100);
}

byId("files").addEventListener("change", (event) => { addFiles(event.target.files); event.target.value = ""; });
byId("strength").addEventListener("input", applyStrength);
for (const kind of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") addFiles(event.dataTransfer.files);
  });
}
byId("scan").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!selectedFiles.length) return;
  byId("problem").hidden = true;
  byId("result").hidden = true;
  byId("send").disabled = true;
  showStatus("Reading the scan…");
  try {
    await showAnswer(await requestAnswer());
    showStatus("");
  } catch (error) {
    showProblem(error instanceof TypeError ? "The connection failed. Check it and try again." : error.message);
  } finally {
    byId("send").disabled = selectedFiles.length === 0;
  }
});
