(() => {
  const box = document.getElementById("search");
  if (box) {
    const items = [...document.querySelectorAll("details.query")];
    const said = document.getElementById("found");
    const words = items.map((item) => item.textContent.toLowerCase());
    box.addEventListener("input", () => {
      const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      items.forEach((item, i) => {
        item.hidden = !wanted.every((word) => words[i].includes(word));
        n += item.hidden ? 0 : 1;
      });
      said.textContent = wanted.length ? `${n} of ${items.length} queries` : "";
    });
  }
  // Paper has nothing to click on. Of the queries the first ones are opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.query), details.printed:not([open])")];
    opened.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((item) => { item.open = false; }));
})();
