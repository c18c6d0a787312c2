// The elements are made once for a set of options and then changed in place: a new element would not have the
// keyboard's focus, and the arrow keys would stop after one step.
export default function ({ data, parentElement, setTriggerValue }) {
  const values = JSON.stringify(data.groups.map(group => [group.heading, group.options.map(one => one.value)]));
  let root = parentElement.querySelector("[role=radiogroup]");
  if (root?.dataset.values !== values) {
    const room = element("div", "room"), made = build(data.groups);
    made.dataset.values = values;
    room.append(made);
    root ? root.parentElement.replaceWith(room) : parentElement.append(room);
    root = made;
  }
  root.ariaLabel = data.label;
  root.style.setProperty("--width", `${data.width}px`);
  root.style.setProperty("--narrowest", `${data.narrowest ?? data.width}px`);
  root.classList.toggle("row", data.narrowest === null);
  const labels = root.querySelectorAll("label");
  data.groups.flatMap(group => group.options).forEach((option, index) => {
    const [input, image, caption, note] = labels[index].children;
    input.checked = option.value === data.chosen;
    input.ariaLabel = option.label;
    image.src = option.image;
    image.alt = option.alt;
    caption.textContent = option.caption;
    note.textContent = option.note;
    labels[index].title = option.help;
    if (input.checked && data.narrowest === null) bring(labels[index]);
  });
  root.onchange = event => setTriggerValue("chosen", event.target.value);
}

// Not by scrollIntoView, which would move the page too.
function bring(label) {
  const row = label.parentElement, room = 6; // for its outline
  const left = label.offsetLeft - room, right = label.offsetLeft + label.offsetWidth + room;
  row.scrollLeft = Math.min(left, Math.max(row.scrollLeft, right - row.clientWidth));
}

function build(groups) {
  const root = element("div");
  root.setAttribute("role", "radiogroup");
  for (const { heading, options } of groups) {
    const group = element("div", "group"), tiles = element("div", "options");
    tiles.style.setProperty("--count", options.length);
    group.append(Object.assign(element("p", "heading"), { textContent: heading }), tiles);
    for (const { value } of options) {
      const label = element("label"), input = element("input");
      Object.assign(input, { type: "radio", name: "choice", value });
      label.append(input, element("img"), element("span", "caption"), element("span", "note"));
      tiles.append(label);
    }
    root.append(group);
  }
  return root;
}

function element(name, className = "") {
  return Object.assign(document.createElement(name), { className });
}
