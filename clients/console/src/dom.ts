/** What an element may have in it. Text is always text, never markup: much of it comes from outside. */
export type Content = Node | string | number | null | undefined | false | Content[];

type Listeners = {
  [Name in keyof HTMLElementEventMap as `on${Name}`]?: (event: HTMLElementEventMap[Name]) => void;
};
export type Attributes = Record<string, unknown> & Listeners;

/** Makes an element: attributes, listeners (`onclick`), and what is in it. */
export function h<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...content: Content[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on") && typeof value === "function") {
      element.addEventListener(name.slice(2), value as EventListener);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== undefined && value !== null) {
      element.setAttribute(name, String(value));
    }
  }
  fill(element, content);
  return element;
}

/** Makes an element of a drawing. */
export function svg<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Record<string, string | number> = {},
  ...content: (SVGElement | string)[]
): SVGElementTagNameMap[Tag] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...content);
  return element;
}

export function set(element: Element, attributes: Record<string, string | number>): void {
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, String(value));
  }
}

/** Replaces what an element has in it. */
export function show(element: Element, ...content: Content[]): void {
  element.replaceChildren();
  fill(element, content);
}

function fill(element: Element, content: Content[]): void {
  for (const part of content) {
    if (Array.isArray(part)) {
      fill(element, part);
    } else if (part !== null && part !== undefined && part !== false) {
      element.append(part instanceof Node ? part : String(part));
    }
  }
}

/** A labelled input, and what is to be known about it. */
export function field(
  label: string,
  attributes: Attributes & { id: string },
  hint?: string,
): { row: HTMLElement; input: HTMLInputElement } {
  const described = hint === undefined ? {} : { "aria-describedby": `${attributes.id}-hint` };
  const plain = { spellcheck: "false", autocapitalize: "none", autocomplete: "off" };
  const input = h("input", { ...plain, ...described, ...attributes });
  const row = h(
    "div",
    { class: "field" },
    h("label", { for: attributes.id }, label),
    input,
    hint !== undefined && h("p", { class: "hint", id: `${attributes.id}-hint` }, hint),
  );
  return { row, input };
}

/** A table whose body is filled later. */
export function table(
  caption: string,
  columns: [title: string, className?: string][],
): { element: HTMLElement; body: HTMLTableSectionElement } {
  const body = h("tbody");
  const head = columns.map(([title, className]) => h("th", { scope: "col", class: className }, title));
  const element = h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), body),
  );
  return { element, body };
}
