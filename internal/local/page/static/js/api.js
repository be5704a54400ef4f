// The live stream of the agent, with the token where one is needed.

const key = "waybill-agent-token";
const silenceMS = 10000; // the agent speaks each second

export function setToken(text) { sessionStorage.setItem(key, text); }

// live calls onEvent(name, data) for every event and onState("on" or "off", words) when the stream comes and goes. It connects
// again until the page goes; while the page is hidden it does not, so that nobody is told what nobody sees. askForToken
// resolves when there is a new one.
export async function live(onEvent, onState, askForToken) {
  let attempt = new AbortController();
  document.addEventListener("visibilitychange", () => { if (document.hidden) attempt.abort(); });
  for (let wait = 300; ; wait = Math.min(wait * 2, 3000)) {
    await visible();
    attempt = new AbortController();
    let silence;
    const heard = () => { clearTimeout(silence); silence = setTimeout(() => attempt.abort(), silenceMS); };
    try {
      heard();
      const token = sessionStorage.getItem(key);
      const response = await fetch("/api/events", { signal: attempt.signal, headers: token ? { Authorization: `Bearer ${token}` } : {} });
      if (response.status === 401) {
        clearTimeout(silence);
        onState("off", "a token is needed");
        await askForToken(token ? "That is not the token." : "");
        wait = 150;
        continue;
      }
      if (!response.ok) throw new Error(await response.text());
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("");
        heard();
        wait = 150;
        const messages = (text + value).split("\n\n");
        text = messages.pop();
        for (const message of messages) {
          const [event, data] = message.split("\n");
          onEvent(event.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
        }
        onState("on", "live");
      }
    } catch (error) {
      if (error instanceof SyntaxError) console.error(error);
      if (!document.hidden) onState("off", "connection lost, trying again");
    } finally {
      clearTimeout(silence);
      attempt.abort();
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
}
