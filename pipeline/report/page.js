"use strict";
// Sorts tables, enlarges pictures, copies commands, singles out classes. Without it the page says the same.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const made = (tag, name, text) => Object.assign(document.createElement(tag), { className: name, textContent: text });

// -- tables: a click on a column sorts by it, another turns the order round --
const value = cell => {
  const said = cell.dataset.v ?? cell.textContent.trim().replace(/\u2212/g, "-").replace(/[,<\u00a0\u202f]/g, "");
  const number = parseFloat(said);
  return /^[+-]?[\d.]/.test(said.trim()) && !isNaN(number) ? number : said ? said.toLowerCase() : null;
};
const before = (a, b) =>
  typeof a === typeof b ? (typeof a === "number" ? a - b : a.localeCompare(b)) : typeof a === "number" ? -1 : 1;
const none = a => a === null || a === "–" || a === "nan";
for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = made("button", "sort");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const now = head.getAttribute("aria-sort");
      const order = now ? (now === "ascending" ? "descending" : "ascending") : head.dataset.first ?? first;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map(row => [value(row.cells[column]), row]);
      rows.sort(([a], [b]) => (none(a) || none(b) ? none(a) - none(b) : sign * before(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

// -- pictures: a click, Enter or Space enlarges one, the arrows go on to the next, Escape closes --
const pictures = all(".mistakes > li, .masks > li, .sheet");
if (pictures.length && window.HTMLDialogElement) {
  const dialog = made("dialog", "large"), shown = made("div", "shown");
  const buttons = { previous: "‹", next: "›", close: "×" };
  let current = 0;
  const show = number => {
    current = (number + pictures.length) % pictures.length;
    const copy = pictures[current].cloneNode(true);
    all("button.enlarge", copy).forEach(button => button.replaceWith(...button.childNodes));
    all("details", copy).forEach(part => (part.open = true));
    shown.className = "shown " + pictures[current].parentElement.className;
    shown.replaceChildren(...copy.childNodes);
  };
  for (const [name, sign] of Object.entries(buttons)) {
    const button = made("button", name, sign);
    button.type = "button";
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () =>
      name === "close" ? dialog.close() : show(current + (name === "next" ? 1 : -1)));
    dialog.append(button);
  }
  dialog.append(shown);
  dialog.setAttribute("aria-label", "Enlarged picture");
  dialog.addEventListener("click", event => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(current + step);
  });
  document.body.append(dialog);
  pictures.forEach((picture, number) => all("img", picture).filter(image => !image.closest("details"))
    .forEach(image => {
      const button = made("button", "enlarge");
      button.type = "button";
      button.setAttribute("aria-label", "Enlarge " + image.alt);
      image.replaceWith(button);
      button.append(image);
      button.addEventListener("click", () => { show(number); dialog.showModal(); });
    }));
}

// -- what is wider than its place: it can be reached by keyboard, and a word and a faded edge say that it goes on --
const cut = new ResizeObserver(entries => entries.forEach(({ target }) => show_cut(target.closest(".wide"))));
const show_cut = region => {
  const hint = region.previousElementSibling;
  const beyond = region.scrollWidth - region.clientWidth, left = beyond - region.scrollLeft;
  region.classList.toggle("more", left > 2);
  region.classList.toggle("hinted", beyond > 2);
  hint.hidden = beyond <= 2;
  hint.classList.toggle("ended", left <= 2);
  region.tabIndex = beyond > 2 ? 0 : -1;
};
for (const region of all(".wide")) {
  const hint = made("p", "scrolls", "scroll →");
  hint.setAttribute("aria-hidden", "true");
  region.before(hint);
  region.addEventListener("scroll", () => show_cut(region), { passive: true });
  cut.observe(region);
  all(":scope > *", region).forEach(inner => cut.observe(inner));
  show_cut(region);
}

// -- commands: a button that copies one --
for (const command of all("pre.command")) {
  const button = made("button", "copy", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    const text = command.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command.querySelector("code"));
      button.textContent = "Selected";
    }
  });
  command.append(button);
}

// -- the plane of features: classes that are pressed stand out --
for (const plane of all(".plane"))
  for (const item of all(".key li", plane)) {
    const button = made("button", "class");
    button.type = "button";
    button.title = "single out";
    button.setAttribute("aria-pressed", "false");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") === "false";
      button.setAttribute("aria-pressed", pressed);
      all(`use[data-k="${item.dataset.k}"]`, plane).forEach(point => point.classList.toggle("on", pressed));
      plane.classList.toggle("only", plane.querySelector("[aria-pressed=true]") !== null);
    });
  }

// -- what is folded is printed too where it is short --
addEventListener("beforeprint", () => all("details.print").forEach(part => (part.open = true)));
