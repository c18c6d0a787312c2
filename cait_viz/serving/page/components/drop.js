// Streamlit calls the function again where data or theme change, without the cleanup of the call before.
let listening;

export default function ({ data }) {
  const place = () => document.querySelector(`.st-key-${data.uploader}`);
  listening?.abort();
  listening = new AbortController();
  const on = (name, act) => document.addEventListener(name, act, { signal: listening.signal });
  const holdsFiles = event => event.dataTransfer?.types.includes("Files");
  // What is dropped on the uploader itself, it takes by itself.
  const isTheirs = event => event.target.closest?.("[data-testid=stFileUploaderDropzone]");

  const give = files => {
    const images = [...files].filter(file => file.type.startsWith("image/"));
    const input = place()?.querySelector("input[type=file]");
    if (!files.length || !input) return false;
    const carried = new DataTransfer();
    for (const file of images.length ? images : files) carried.items.add(file);
    input.files = carried.files;
    return input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const show = dragged => place()?.toggleAttribute("data-dropping", dragged);

  on("dragover", event => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    show(true);
  });
  on("dragleave", event => event.relatedTarget === null && show(false));
  on("drop", event => {
    show(false);
    if (!holdsFiles(event) || isTheirs(event)) return;
    event.preventDefault();
    give(event.dataTransfer.files);
  });
  on("paste", event => {
    if (event.clipboardData.files.length && give(event.clipboardData.files)) event.preventDefault();
  });

  // Streamlit calls its drop area presentational and yet gives it a name, which a screen reader cannot do both.
  const name = () => place()?.querySelector("section[role=presentation]")?.setAttribute("role", "group");
  const watch = new MutationObserver(name);
  watch.observe(place(), { childList: true, subtree: true });
  listening.signal.addEventListener("abort", () => watch.disconnect());
  name();
  return () => listening.abort();
}
