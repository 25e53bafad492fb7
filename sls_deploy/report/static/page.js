"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Light and dark: as the system has it, until the button is pressed.
  const theme = document.querySelector(".theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () =>
    (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  system.addEventListener("change", nameTheme);
  nameTheme();

  // One budget or all.
  for (const chooser of all(".chooser")) {
    chooser.hidden = false;
    const select = chooser.querySelector("select");
    const show = () => {
      for (const part of all("[data-budget]")) {
        part.hidden = select.value !== "" && part.dataset.budget !== select.value;
        if (part.matches("details.part") && select.value && !part.hidden) part.open = true;
      }
    };
    select.addEventListener("change", show);
    show(); // browsers keep a choice over a reload
  }

  // A slider between two stages. The range input lies over the pictures: mouse, touch and keys
  // come with it.
  const imageOf = (crop, stage) =>
    all(".strip li", crop).find((item) => item.dataset.stage === stage).querySelector("img");
  for (const compare of all(".compare")) {
    const crop = compare.closest(".crop");
    const range = compare.querySelector("input");
    const left = compare.querySelector(".left");
    const right = compare.querySelector(".right");
    const over = compare.querySelector(".over");
    const under = compare.querySelector(".under");
    const move = () => {
      compare.querySelector(".frame").style.setProperty("--at", `${range.value}%`);
      range.setAttribute("aria-valuetext", `${range.value} % ${left.value}, the rest ${right.value}`);
    };
    const choose = () => {
      for (const [image, select] of [[over, left], [under, right]]) {
        image.src = imageOf(crop, select.value).src;
        image.alt = `${compare.dataset.name}, ${select.value}`;
      }
      move();
    };
    range.addEventListener("input", move);
    left.addEventListener("change", choose);
    right.addEventListener("change", choose);
    choose();
    compare.hidden = false;
  }

  // Differences to the dense network, made of the pictures that are there.
  const DENSE = "dense PyTorch";
  for (const strip of all(".strip")) {
    const items = all("li", strip);
    const dense = items.find((item) => item.dataset.stage === DENSE);
    if (!dense) continue;
    for (const item of items) {
      const stage = item.dataset.stage;
      if (["input", DENSE].includes(stage)) continue;
      const box = document.createElement("div");
      box.className = "difference";
      const [own, other] = [item, dense].map((one) => one.querySelector("img").cloneNode());
      own.alt = `Difference of ${stage} to ${DENSE}, 8 times as strong`;
      other.alt = "";
      box.append(own, other);
      const words = document.createElement("p");
      words.textContent = "difference ×8";
      item.append(box, words);
    }
  }

  // Tables that sort by a click on a column.
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sign = down ? -1 : 1;
        const compare = (a, b) =>
          typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
        const rows = [...body.rows].sort((a, b) => sign * compare(key(a), key(b)));
        body.append(...rows);
      });
    });
  }

  // What a mark of a chart says, where the pointer is on it.
  const tip = document.querySelector(".tip");
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("[data-told]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.told;
    const box = tip.getBoundingClientRect();
    const x = Math.max(12, Math.min(event.clientX + 14, innerWidth - box.width - 12));
    const above = event.clientY - box.height - 14;
    tip.style.transform = `translate(${x}px, ${above < 8 ? event.clientY + 18 : above}px)`;
  });

  // On paper everything is open.
  const paper = matchMedia("print");
  let opened = [];
  const open = () => {
    opened = opened.concat(all("details:not([open])"));
    opened.forEach((one) => { one.open = true; });
  };
  const close = () => {
    opened.forEach((one) => { one.open = false; });
    opened = [];
  };
  paper.addEventListener("change", () => (paper.matches ? open() : close()));
  addEventListener("beforeprint", open);
  addEventListener("afterprint", close);
})();
