// What the page asks of its server: /api/v1, with the token where one is needed, and the live stream.

const prefix = "/api/v1";
const key = "waybill-token";
let askForToken = async () => {};

// onToken sets what is done when the server wants a token; it resolves when there is one.
export function onToken(f) { askForToken = f; }
export function setToken(text) { sessionStorage.setItem(key, text); }

function headers() {
  const token = sessionStorage.getItem(key);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export const devicePath = (tenant, device) => `/devices/${encodeURIComponent(tenant)}/${encodeURIComponent(device)}`;

async function ask(path, init = {}) {
  for (;;) {
    const response = await fetch(prefix + path, { ...init, headers: headers() });
    if (response.status !== 401) return response;
    const why = await problem(response);
    await askForToken(sessionStorage.getItem(key) ? why : "");
  }
}

async function problem(response) {
  try { return (await response.json()).detail; } catch { return `${response.status} ${response.statusText}`; }
}

// get answers JSON, or throws with the server's words. parameters that are empty are left out.
export async function get(path, parameters = {}, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined && value !== "") query.set(name, value);
  const response = await ask(`${path}${query.size ? `?${query}` : ""}`, { signal });
  if (!response.ok) throw new Error(await problem(response));
  return response.json();
}

// all reads the pages of a list, at most `most` items.
export async function all(path, parameters = {}, most = 5000, signal) {
  const items = [];
  for (let cursor = ""; ;) {
    const page = await get(path, { ...parameters, limit: 500, cursor }, signal);
    items.push(...page.items);
    if (!page.next || items.length >= most) return items;
    cursor = page.next;
  }
}

// live calls onUpdate for every update and onState("on" or "off", words) when the stream comes and goes; it connects again until
// signal aborts. A stream that is silent for a while is taken for dead: the server speaks each second.
export async function live(onUpdate, onState, signal) {
  for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 8000)) {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    signal.addEventListener("abort", end);
    let silence;
    const heard = () => { clearTimeout(silence); silence = setTimeout(end, 15000); };
    try {
      heard();
      const response = await ask("/live", { signal: attempt.signal });
      if (!response.ok) throw new Error(await problem(response));
      onState("on", "live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        heard();
        wait = 500;
        const messages = (text + value).split("\n\n");
        text = messages.pop();
        for (const message of messages) {
          const data = message.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
          if (data) onUpdate(JSON.parse(data));
        }
      }
      throw new Error("the stream ended");
    } catch {
      if (!signal.aborted) onState("off", "connection lost, trying again");
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", end);
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}
