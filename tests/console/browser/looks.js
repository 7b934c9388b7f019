// What a person with weak eyes, a small screen or no mouse would stumble over in a page. Each a list of complaints.
() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const paint = canvas.getContext("2d", {willReadFrequently: true});

  function rgba(colour) {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = "#000";
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }

  const over = (top, below) => [...[0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])), 1];

  function luminance([r, g, b]) {
    const linear = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  }

  function contrast(one, other) {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }

  const isShape = (element) => element instanceof SVGGeometryElement;

  function ownGround(element) {
    const style = getComputedStyle(element);
    if (!isShape(element)) return rgba(style.backgroundColor);
    if (style.fill === "none" || style.fill.startsWith("url")) return [0, 0, 0, 0];
    const [r, g, b, a] = rgba(style.fill);
    return [r, g, b, a * Number(style.fillOpacity)];
  }

  // What is painted behind a point of an element: all that lies there from it on down, whoever its ancestors are.
  function ground(element, x, y) {
    const stack = document.elementsFromPoint(x, y);
    const place = stack.indexOf(element);
    const behind = place < 0 ? ancestors(element) : stack.slice(place);
    return behind.map(ownGround).reduceRight((below, top) => over(top, below), rgba("Canvas"));
  }

  function ancestors(element) {
    const found = [];
    for (let here = element; here; here = here.parentElement) found.push(here);
    return found;
  }

  const opacity = (element) => ancestors(element).reduce((all, here) => all * Number(getComputedStyle(here).opacity), 1);

  function name(element) {
    const text = (element.textContent || element.value || element.placeholder || "").trim().replace(/\s+/g, " ").slice(0, 40);
    const kind = [element.localName, ...element.classList].join(".");
    return `<${kind}> "${text}"`;
  }

  // Whether some of a box can be seen: on the page, and not scrolled out of what it lies in.
  function seen(box, element) {
    let {left, top, right, bottom} = box;
    for (let here = element; here && here !== document.documentElement; here = here.parentElement) {
      const style = getComputedStyle(here);
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      const clip = here.getBoundingClientRect();
      left = Math.max(left, clip.left); right = Math.min(right, clip.right);
      top = Math.max(top, clip.top); bottom = Math.min(bottom, clip.bottom);
    }
    left = Math.max(left, 0); right = Math.min(right, innerWidth); top = Math.max(top, 0); bottom = Math.min(bottom, innerHeight);
    return right - left > 1 && bottom - top > 1 ? [(left + right) / 2, (top + bottom) / 2] : null;
  }

  function* texts() {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.nodeValue.trim() || element.closest("option, script, style, :disabled")) continue;
      if (!element.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
      range.selectNodeContents(walker.currentNode);
      for (const box of range.getClientRects()) {
        const middle = seen(box, element);
        if (middle) { yield [element, middle, getComputedStyle(element)]; break; }
      }
    }
    for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
      if (!field.checkVisibility() || field.disabled) continue;
      const middle = seen(field.getBoundingClientRect(), field);
      if (middle) yield [field, middle, getComputedStyle(field, field.placeholder && !field.value ? "::placeholder" : null)];
    }
  }

  function pale() {
    const found = new Set();
    for (const [element, [x, y], style] of texts()) {
      const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
      const wanted = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
      const behind = ground(element, x, y);
      const [r, g, b, a] = rgba(element instanceof SVGElement ? style.fill : style.color);
      const has = contrast(over([r, g, b, a * opacity(element)], behind), behind);
      if (has < wanted) found.add(`${name(element)} has a contrast of ${has.toFixed(2)}, and needs ${wanted}`);
    }
    return [...found];
  }

  const focusable = () => [...document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]:not([tabindex='-1'])",
  )].filter((element) => !element.disabled && element.checkVisibility({visibilityProperty: true}));

  // A key was pressed before: what is focused by a script now is shown as focused, as it is for who uses the keyboard.
  function unmarked() {
    const found = [];
    for (const element of focusable()) {
      element.focus({preventScroll: true});
      if (document.activeElement !== element) continue;
      const style = getComputedStyle(element);
      const marked = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== "none";
      if (!marked) found.push(`${name(element)} does not show that it has the focus`);
    }
    return found;
  }

  function wide() {
    const page = document.scrollingElement;
    if (page.scrollWidth <= innerWidth) return [];
    const out = [...document.body.querySelectorAll("*")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width && box.right > innerWidth + 0.5 && seen({...box.toJSON(), left: innerWidth - 2}, element);
    });
    return [`${page.scrollWidth} pixels wide on a screen of ${innerWidth}: ${out.slice(-3).map(name).join(", ")}`];
  }

  function headings() {
    const first = [...document.querySelectorAll("h1")].filter((element) => element.checkVisibility());
    return first.length === 1 && first[0].textContent.trim() ? [] : [`${first.length} headings of the first level`];
  }

  function twice() {
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    return [...new Set(ids.filter((id, place) => ids.indexOf(id) !== place))].map((id) => `two elements have the id ${id}`);
  }

  return {pale, unmarked, wide, headings, twice};
}
