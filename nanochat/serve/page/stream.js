// The server's interface, as OpenAI's clients have it: the models, and an answer as it is made.
// Promises: an answer comes piece by piece as {text}, {tool}, {finish}, {usage}, {timings}; whatever goes wrong is a
// ServerError with a sentence for a person; a stream that ends early is an error too, never a short answer.
// Addresses are relative, so that the page also works behind a prefix. Not here: trying again, what is shown.

const KEY = "nanochat.key";

/** What went wrong: `status` of HTTP, 0 where the connection failed; `retryAfter` in seconds, or null. */
export class ServerError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The key of a server that wants one; it lives as long as the tab. */
export function setKey(key) {
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    setKey.held = key; // storage is closed to the page
  }
}

function headers() {
  let key = setKey.held;
  try {
    key ??= sessionStorage.getItem(KEY);
  } catch {
    // as above
  }
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

/** [{id, context, description, …}] */
export async function models() {
  const response = await request("v1/models", { headers: headers() });
  const list = (await json(response))?.data;
  if (!Array.isArray(list)) throw new ServerError("The server's list of models cannot be read.", response.status);
  return list.filter((card) => typeof card?.id === "string");
}

/** The pieces of an answer; ends when it is whole. Aborting the signal ends it with an AbortError. */
export async function* answer(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal,
    body: JSON.stringify({
      ...body,
      stream: true,
      stream_options: { include_usage: true },
      tool_display: "separate",
      truncation: "auto",
    }),
  });
  let finished = false;
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk?.error) throw new ServerError(sentence(chunk.error.message), 200);
    const choice = chunk?.choices?.[0];
    if (typeof choice?.delta?.content === "string" && choice.delta.content) yield { text: choice.delta.content };
    if (choice?.delta?.tool) yield { tool: choice.delta.tool };
    if (choice?.finish_reason) {
      finished = true;
      yield { finish: choice.finish_reason };
    }
    if (chunk?.usage) yield { usage: chunk.usage };
    if (chunk?.timings) yield { timings: chunk.timings };
  }
  if (!finished) throw new ServerError("The connection broke off before the answer was whole.");
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.");
  }
  if (response.ok) return response;
  const message = (await json(response))?.error?.message;
  throw new ServerError(message ? sentence(message) : reason(response.status), response.status, waitOf(response));
}

/** The data of each server-sent event: lines that begin with "data:", up to a blank one. */
async function* events(response) {
  const reader = response.body.getReader(); // not through a TextDecoderStream: an error would take what waits in it
  const decoder = new TextDecoder();
  let [rest, data] = ["", []];
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) break;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length) yield data.splice(0).join("\n");
        else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // an aborted stream says so again
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection broke off before the answer was whole.");
  }
}

async function json(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null;
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ServerError("The server sent something that is no answer.", 200);
  }
}

/** Retry-After in seconds, of a number or a date. */
function waitOf(response) {
  const said = response.headers.get("retry-after");
  if (!said) return null;
  const seconds = /^\d+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 1), 3600) : null;
}

function reason(status) {
  if (status === 429) return "The server is busy.";
  if (status === 503) return "The server is not ready.";
  return `The server refused, with status ${status}.`;
}

/** A message of the server with a capital and an end, as the page's own. */
function sentence(message) {
  const text = String(message).slice(0, 2000).trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
