// Two images of one size, the second one over the first and seen to the right of a line that can be moved.
export default function ({ data, parentElement }) {
  let frame = parentElement.querySelector(".frame");
  if (!frame) {
    frame = document.createElement("div");
    frame.className = "frame";
    frame.innerHTML = '<img class="left"><img class="right"><div class="line"></div><input type="range" min="0" max="100" value="50">';
    parentElement.append(frame);
  }
  const [left, right] = frame.querySelectorAll("img"), range = frame.querySelector("input");
  Object.assign(left, { src: data.pictures[0].image, alt: data.pictures[0].alt });
  Object.assign(right, { src: data.pictures[1].image, alt: data.pictures[1].alt });
  frame.style.setProperty("--ratio", data.size[0] / data.size[1]);
  range.ariaLabel = "Line between the two maps: the first is left of it, the second right of it";
  const move = () => frame.style.setProperty("--at", `${range.value}%`);
  range.oninput = move;
  move();
}
