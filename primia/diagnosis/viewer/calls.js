// What the page asks of the viewer that served it: each call carries the token of this start.

const token = location.hash.slice(1);

export const hasToken = token !== "";

/** A refusal in one sentence, meant for the person at the page; `passing` if the same may work a little later. */
export class Refusal extends Error {
  constructor(sentence, passing = false) {
    super(sentence);
    this.passing = passing;
  }
}

const plain = { cache: "no-store", credentials: "omit" };
const bytesOf = (text) => new TextEncoder().encode(text);

/** Whether who answers here knows the token: after the viewer has ended, another program may have taken its port. */
async function isTheViewer() {
  const nonce = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const answer = await fetch(`/hello?nonce=${nonce}`, plain);
  const proof = answer.ok ? String((await answer.json().catch(() => ({}))).proof) : "";
  const signature = new Uint8Array((proof.match(/[0-9a-f]{2}/g) ?? []).map((digits) => parseInt(digits, 16)));
  const key = await crypto.subtle.importKey("raw", bytesOf(token), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  return crypto.subtle.verify("HMAC", key, signature, bytesOf(`primia viewer ${nonce}`));
}

async function asked(path, options = {}) {
  let answer;
  try {
    if (hasToken && !(await isTheViewer()))
      throw new Refusal("What answers here does not know this page's token; nothing was sent. Open the address that the viewer printed.");
    answer = await fetch(path, { ...options, ...plain, headers: { "primia-token": token } });
  } catch (error) {
    if (error instanceof Refusal) throw error;
    if (error.name === "AbortError") throw error;
    throw new Refusal("The viewer on this computer does not answer; start it again and open the address it prints.", true);
  }
  if (answer.ok) return answer;
  let detail;
  try {
    ({ detail } = await answer.json());
  } catch {
    detail = undefined;
  }
  throw new Refusal(detail ?? `The viewer failed (${answer.status}); start it again.`, answer.status >= 500);
}

/** The model that will be asked, and the largest file in bytes. */
export async function askModel() {
  return (await asked("/api/model")).json();
}

/** What the pipeline makes of a file. */
export async function askPreview(file, signal) {
  return (await asked("/api/preview", { method: "POST", body: file, signal })).json();
}

/** Diagnose a file; yields an object for each line that the viewer sends while it works. */
export async function* diagnose(file) {
  const answer = await asked("/api/diagnosis", { method: "POST", body: file });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  } catch (error) {
    if (error instanceof SyntaxError) throw error;
    throw new Refusal("The viewer on this computer stopped before the diagnosis was done; start it again.");
  }
}
