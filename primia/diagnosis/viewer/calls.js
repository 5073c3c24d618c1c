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

async function asked(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "primia-token": token }, cache: "no-store", credentials: "omit" });
  } catch (error) {
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
