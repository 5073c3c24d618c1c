// The page is a function of one state: whatever happens changes the state, and `render` draws all of it.

import { Refusal, askModel, askPreview, diagnose, hasToken } from "/calls.js";

const STEPS = {
  preprocess: "Preparing the image",
  encrypt: "Encrypting on this computer",
  enrol: "Handing the service its evaluation keys, once",
  send: "Sending the ciphertext",
  compute: "The service computes on the ciphertext",
  decrypt: "Decrypting the answer on this computer",
};
// A module runs when the document is parsed: every element is there.
const $ = (id) => document.getElementById(id);

const state = {
  model: null, // {name, version, marks, server, most_bytes}
  file: null, // the File, and `url` of it
  url: null,
  preview: null, // {prepared, original, pixels}
  run: null, // {steps: {name: {started, seconds, bytes}}, at, answer, failed}
  trouble: null, // {text, again: function or null}
};

function change(changes) {
  Object.assign(state, changes);
  render();
}

function phase() {
  if (!hasToken) return "locked";
  if (state.run && !state.run.answer && !state.run.failed) return "diagnosing";
  if (state.run?.answer) return "answered";
  if (!state.file) return state.trouble ? "refused" : "empty";
  if (state.trouble) return "refused";
  return state.preview ? "ready" : "preparing";
}

// ---- what happens

async function learnModel() {
  change({ trouble: null });
  try {
    change({ model: await askModel() });
  } catch (error) {
    if (!state.file) change({ trouble: told(error, learnModel) }); // else the preview says so
  }
}

let preparing = new AbortController();

async function choose(file) {
  if (phase() === "diagnosing" || !hasToken) return;
  forget();
  if (file.size > (state.model?.most_bytes ?? Infinity)) {
    change({ trouble: told(new Refusal(`${file.name} has more than ${size(state.model.most_bytes)}; choose a smaller file.`)) });
    return;
  }
  change({ file, url: URL.createObjectURL(file) });
  await prepare();
}

async function prepare() {
  const { signal } = (preparing = new AbortController());
  change({ trouble: null });
  try {
    const { model, ...preview } = await askPreview(state.file, signal);
    if (!signal.aborted) change({ model, preview });
  } catch (error) {
    if (signal.aborted) return;
    const trouble = told(error, prepare);
    if (trouble.again) return change({ trouble });
    const { name } = state.file;
    forget();
    change({ trouble: { ...trouble, text: `${name}: ${trouble.text}` } });
  }
}

async function run() {
  if (!mayDiagnose()) return;
  const current = { steps: {}, at: null, answer: null, failed: false };
  change({ run: current, trouble: null });
  try {
    for await (const line of diagnose(state.file)) {
      if (line.refused) throw new Refusal(line.refused);
      if (line.step) progress(current, line);
      if (line.diagnosis) {
        current.answer = line.diagnosis;
        for (const [step, seconds] of Object.entries(line.diagnosis.seconds)) {
          current.steps[step] = { seconds, bytes: line.diagnosis.bytes[step] };
        }
      }
      render();
    }
    if (!current.answer) throw new Refusal("The viewer stopped before the diagnosis was done; start it again.");
    $("answer").focus({ preventScroll: true });
    $("answer").scrollIntoView({ block: "nearest" });
  } catch (error) {
    current.failed = true;
    change({ trouble: told(error) });
  }
}

/** A step begins, with neither seconds nor bytes, or is done. Only the service knows where sending ends and computing
 * begins: the figures of both come with its answer, and until then a step ends where the next begins. */
function progress(current, { step, seconds, bytes }) {
  const now = performance.now();
  if (seconds !== undefined) {
    current.steps[step] = { seconds, bytes };
    return;
  }
  const before = current.steps[current.at];
  if (before?.started !== undefined) before.ended = now;
  current.steps[step] = { started: now };
  current.at = step;
}

function forget() {
  preparing.abort();
  if (state.url) URL.revokeObjectURL(state.url);
  $("file").value = "";
  change({ file: null, url: null, preview: null, run: null, trouble: null });
}

function told(error, again = null) {
  // A file that was refused once is refused again; a service may be back.
  if (error instanceof Refusal) return { text: error.message, again: error.passing ? again : null };
  console.error(error);
  return { text: "The page met an error of its own; reload it.", again: null };
}

// ---- what is seen

const mayDiagnose = () => Boolean(state.preview) && phase() !== "diagnosing";

function render() {
  const now = phase();
  document.body.dataset.phase = now;
  document.body.dataset.model = state.model ? "known" : "asking";
  document.body.toggleAttribute("data-file", Boolean(state.file));
  $("file").disabled = now === "diagnosing" || now === "locked";
  $("diagnose").disabled = !mayDiagnose();
  $("clear").hidden = !state.file || now === "diagnosing";
  say(status(now));
  renderModel();
  renderPictures(now);
  renderSteps();
  renderAnswer();
  renderTrouble();
}

function renderTrouble() {
  const text = state.trouble?.text ?? "";
  const news = text !== "" && text !== $("trouble-text").textContent;
  show($("trouble"), state.trouble);
  $("trouble-text").textContent = text;
  $("retry").hidden = !state.trouble?.again;
  if (news) $("trouble").scrollIntoView({ block: "nearest" });
}

function status(now) {
  return {
    locked: "Open the whole address that the viewer printed, with what follows the #.",
    empty: "First choose an image.",
    preparing: "The image is being prepared on this computer.",
    ready: "Ready. The image is encrypted before it leaves this computer.",
    diagnosing: `${STEPS[state.run?.at] ?? "Starting"}…`,
    answered: `Done in ${total().toFixed(2)} s. The service saw ciphertext only.`,
    refused: state.file ? "" : "Choose another image.",
  }[now];
}

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text; // said once, not at every redraw
}

function total() {
  return Object.values(state.run?.answer?.seconds ?? {}).reduce((sum, seconds) => sum + seconds, 0);
}

function renderModel() {
  show($("model"), state.model);
  if (!state.model) return;
  $("model-name").textContent = `${state.model.name}, version ${state.model.version}`;
  $("server").textContent = `, to ${state.model.server}`;
  show($("model-marks-row"), state.model.marks);
  $("model-marks").textContent = state.model.marks ?? "";
  $("most-size").textContent = `up to ${size(state.model.most_bytes)}`;
}

function renderPictures(now) {
  const { file, preview } = state;
  $("drop-title").textContent = file ? "Choose or drop another image" : "Choose an image, or drop it here";
  show($("pictures"), preview || now === "preparing");
  $("file-name").textContent = file ? `${file.name}, ${size(file.size)}` : "";
  // What a browser cannot draw is drawn by the viewer on this computer.
  picture($("original"), preview ? (preview.original ?? state.url) : null);
  picture($("prepared"), preview?.prepared);
  show($("preparing"), now === "preparing");
  $("prepared-size").textContent = preview ? `${preview.pixels} × ${preview.pixels} pixels` : "";
}

function renderSteps() {
  for (const item of $("steps").children) {
    const name = item.dataset.step;
    const step = state.run?.steps[name];
    item.dataset.state = stateOf(name, step);
    if (name === "enrol") show(item, step); // only a service that does not know the keys yet asks for them
    item.lastElementChild.textContent = step ? figures(step) : "";
  }
}

function stateOf(name, step) {
  if (!step) return "waiting";
  if (step.seconds !== undefined || step.ended !== undefined) return "done";
  return state.run.failed ? "failed" : "running";
}

function figures({ started, ended, seconds, bytes }) {
  const shown = (seconds ?? ((ended ?? performance.now()) - started) / 1000).toFixed(2);
  return bytes === undefined ? `${shown} s` : `${shown} s\n${size(bytes)}`;
}

function renderAnswer() {
  const answer = state.run?.answer;
  show($("answer"), answer);
  if (!answer) return $("bars").replaceChildren();
  const shares = Object.entries(answer.probabilities).sort(([, one], [, other]) => other - one);
  $("bars").replaceChildren(...shares.map(([name, share], place) => bar(name, share * 100, place === 0)));
  const facts = {
    Model: `${answer.model}, version ${answer.version}`,
    Digest: answer.model_digest.slice(0, 12),
    Marks: answer.marks ?? "none",
  };
  $("facts").replaceChildren(...Object.entries(facts).map(([term, value]) =>
    element("div", "", element("dt", "", term), element("dd", "", value))));
}

function bar(name, percent, first) {
  const filled = element("div", "bar");
  filled.style.setProperty("--share", percent);
  const classes = first ? "class first" : "class";
  return element("li", "", element("span", classes, name), element("span", first ? "share first" : "share", `${percent.toFixed(1)} %`),
    element("div", "track", filled));
}

function element(kind, classes, ...content) {
  const made = document.createElement(kind);
  made.className = classes;
  made.append(...content);
  return made;
}

function picture(image, source) {
  show(image, source);
  if (!source) image.removeAttribute("src");
  else if (image.getAttribute("src") !== source) image.src = source;
}

function show(shown, whether) {
  shown.hidden = !whether;
}

function size(bytes) {
  if (bytes < 1e3) return `${bytes} bytes`;
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`;
}

// ---- from here on the page listens

$("file").addEventListener("change", (event) => event.target.files[0] && choose(event.target.files[0]));
$("diagnose").addEventListener("click", run);
$("clear").addEventListener("click", () => {
  forget();
  $("file").focus();
});
$("retry").addEventListener("click", () => state.trouble?.again?.());
// A file dropped beside the field must not replace the page.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
}
addEventListener("hashchange", () => location.reload());
setInterval(() => phase() === "diagnosing" && renderSteps(), 100);

render();
if (hasToken) learnModel();
