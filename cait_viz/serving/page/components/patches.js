// The elements are made once for a number of images and a grid, and then changed in place, so that the keyboard's
// focus stays where it is.
export default function ({ data, parentElement, setTriggerValue }) {
  const made = JSON.stringify([data.pictures.length, data.grid]);
  let room = parentElement.querySelector(".room");
  if (room?.dataset.made !== made) {
    const next = build(data.pictures.length, data.grid);
    next.dataset.made = made;
    room ? room.replaceWith(next) : parentElement.append(next);
    room = next;
  }
  const [rows, columns] = data.grid, [left, top, right, bottom] = data.box;
  const figures = [...room.querySelectorAll("figure")], areas = [...room.querySelectorAll(".patches")];
  const grid = areas[0], cells = grid.querySelectorAll("[role=gridcell]");
  let chosen = data.chosen;

  room.style.setProperty("--ratio", data.size[0] / data.size[1]);
  room.style.setProperty("--count", figures.length);
  figures.forEach((figure, index) => {
    const { image, alt, caption, note } = data.pictures[index], shown = figure.querySelector("img");
    Object.assign(shown, { width: data.size[0], height: data.size[1], src: image, alt });
    figure.querySelector(".caption").textContent = caption;
    figure.querySelector(".note").textContent = note;
    Object.assign(areas[index].style, {
      left: `${100 * left}%`, top: `${100 * top}%`,
      width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
    });
  });

  const mark = (kind, patch) => room.querySelectorAll(`.${kind}`).forEach(one => Object.assign(one.style, {
    display: patch === null ? "none" : "block",
    left: `${100 * (patch % columns) / columns}%`, top: `${100 * Math.floor(patch / columns) / rows}%`,
    width: `${100 / columns}%`, height: `${100 / rows}%`,
  }));
  const point = patch => {
    mark("pointed", patch);
    grid.setAttribute("aria-activedescendant", patch === null ? "" : cells[patch].id);
  };
  const choose = patch => {
    chosen = patch;
    mark("chosen", chosen);
    cells.forEach((cell, index) => cell.setAttribute("aria-selected", index === chosen));
  };
  const send = patch => {
    choose(patch);
    setTriggerValue("chosen", { patch });
  };
  const under = event => {
    const place = event.currentTarget.getBoundingClientRect();
    const row = Math.floor(rows * (event.clientY - place.top) / place.height);
    const column = Math.floor(columns * (event.clientX - place.left) / place.width);
    return columns * Math.min(Math.max(row, 0), rows - 1) + Math.min(Math.max(column, 0), columns - 1);
  };

  choose(chosen);
  for (const area of areas) {
    area.onpointermove = event => event.pointerType === "mouse" && mark("pointed", under(event));
    area.onpointerleave = () => mark("pointed", null);
    area.onclick = event => {
      const patch = under(event);
      grid.dataset.at = patch;
      send(patch === chosen ? null : patch);
    };
  }
  const middle = columns * Math.floor(rows / 2) + Math.floor(columns / 2);
  const at = () => Number(grid.dataset.at ?? chosen ?? middle);
  grid.onfocus = () => grid.matches(":focus-visible") && point(at());
  grid.onblur = () => point(null);
  grid.onkeydown = event => {
    const row = Math.floor(at() / columns), column = at() % columns;
    const steps = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, columns - 1],
    };
    if (event.key in steps) {
      const [to, across] = steps[event.key];
      grid.dataset.at = columns * Math.min(Math.max(to, 0), rows - 1) + Math.min(Math.max(across, 0), columns - 1);
      point(at());
    } else if (event.key === "Enter" || event.key === " ") {
      send(at() === chosen ? null : at());
    } else if (event.key === "Escape" && chosen !== null) {
      send(null);
    } else {
      return;
    }
    event.preventDefault();
  };
}

function build(count, [rows, columns]) {
  const room = element("div", "room"), pictures = element("div", "pictures");
  for (let index = 0; index < count; index++) {
    const figure = element("figure"), frame = element("div", "frame"), area = element("div", "patches");
    if (index === 0) fill(area, rows, columns);
    area.append(element("div", "mark pointed"), element("div", "mark chosen"));
    frame.append(element("img"), area);
    const words = element("figcaption");
    words.append(element("span", "caption"), element("span", "note"));
    figure.append(frame, words);
    pictures.append(figure);
  }
  room.append(pictures);
  return room;
}

// For a screen reader: where the keyboard is, and what is chosen.
function fill(area, rows, columns) {
  area.setAttribute("role", "grid");
  area.tabIndex = 0;
  area.ariaLabel = "Patches of the image: arrow keys to move, Enter to choose";
  for (let row = 0; row < rows; row++) {
    const line = element("div");
    line.setAttribute("role", "row");
    for (let column = 0; column < columns; column++) {
      const cell = element("div");
      cell.id = `patch-${columns * row + column}`;
      cell.setAttribute("role", "gridcell");
      cell.ariaLabel = `Row ${row + 1}, column ${column + 1}`;
      line.append(cell);
    }
    area.append(line);
  }
}

function element(name, className = "") {
  return Object.assign(document.createElement(name), { className });
}
