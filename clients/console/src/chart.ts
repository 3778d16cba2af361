import { REMEMBERED } from "./dashboard.js";
import { h, set, show, svg } from "./dom.js";
import { type Known, NOTHING } from "./format.js";

const WIDTH = 600;
const HEIGHT = 150;
const LINES = 3;
/** Over how many seconds charts go: as few as what is known needs. */
const SPANS = [60, 120, REMEMBERED];

/** A line of a chart. */
export interface Series {
  name: string;
  values: Known[];
}

/** How something went in the last minutes, a value a second. */
export class Chart {
  readonly element: HTMLElement;
  readonly #format: (value: Known) => string;
  readonly #least: number;
  readonly #base: number;
  readonly #drawing: SVGSVGElement;
  readonly #lines = svg("g");
  readonly #marks = svg("g", { class: "marks" });
  readonly #cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  readonly #scale = h("div", { class: "scale", "aria-hidden": "true" });
  readonly #legend = h("ul", { class: "legend" });
  readonly #begin = h("span");
  readonly #title: string;
  #series: Series[] = [];
  /** Which second is pointed at, counted from the newest. */
  #pointed: number | undefined;
  #span = REMEMBERED;

  /**
   * `least` is what the scale reaches at least, or noise would fill it. `base` is by how many times the next larger unit
   * is larger.
   */
  constructor(title: string, format: (value: Known) => string, least = 1, base = 10) {
    this.#title = title;
    this.#format = format;
    this.#least = least;
    this.#base = base;
    this.#drawing = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      this.#marks,
      this.#lines,
      this.#cursor,
    );
    for (let line = 0; line <= LINES; line += 1) {
      const y = (HEIGHT * line) / LINES;
      this.#marks.append(svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y }));
    }
    this.#drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.#drawing.addEventListener("pointerleave", () => {
      this.#pointed = undefined;
      this.#tell();
    });
    this.element = h(
      "figure",
      { class: "chart card" },
      h("figcaption", {}, title),
      this.#legend,
      h("div", { class: "plot" }, this.#scale, this.#drawing),
      h("div", { class: "times", "aria-hidden": "true" }, this.#begin, h("span", {}, "now")),
    );
  }

  draw(series: Series[]): void {
    this.#series = series;
    const known = series.flatMap(({ values }) => values.filter((value) => typeof value === "number"));
    const top = ceiling(Math.max(this.#least, ...known), this.#base);
    const length = Math.max(0, ...series.map(({ values }) => values.length));
    this.#span = SPANS.find((span) => span >= length) ?? REMEMBERED;
    this.#begin.textContent = `${this.#span / 60} min ago`;
    show(
      this.#scale,
      [...Array(LINES + 1).keys()].map((line) => h("span", {}, this.#format((top * (LINES - line)) / LINES))),
    );
    while (this.#lines.childElementCount > series.length) {
      this.#lines.lastElementChild?.remove();
    }
    series.forEach(({ values }, at) => {
      let group = this.#lines.children[at];
      if (group === undefined) {
        group = svg(
          "g",
          { class: `series s${at % 6}` },
          svg("path", { class: "area" }),
          svg("path", { class: "line" }),
        );
        this.#lines.append(group);
      }
      const [area, line] = paths(values, top, this.#span);
      set(group.children[0] as Element, { d: series.length === 1 ? area : "" });
      set(group.children[1] as Element, { d: line });
    });
    this.#tell();
  }

  /** Says the values of now, or of the second that is pointed at. */
  #tell(): void {
    const back = this.#pointed ?? 0;
    const told = this.#series.map(({ name, values }) => ({
      name,
      value: this.#format(values.at(-1 - back)),
    }));
    show(
      this.#legend,
      told.map(({ name, value }, at) =>
        h("li", { class: `s${at % 6}` }, h("span", { class: "key" }), name, " ", h("b", {}, value)),
      ),
    );
    const said = told.map(({ name, value }) => `${name} ${value}`).join(", ");
    set(this.#drawing, { "aria-label": `${this.#title}: ${said === "" ? NOTHING : said}` });
    const x = WIDTH - (WIDTH * back) / (this.#span - 1);
    set(this.#cursor, { x1: x, x2: x, visibility: this.#pointed === undefined ? "hidden" : "visible" });
  }

  #point(event: PointerEvent): void {
    const { left, width } = this.#drawing.getBoundingClientRect();
    const share = 1 - (event.clientX - left) / width;
    this.#pointed = Math.max(0, Math.round(share * (this.#span - 1)));
    this.#tell();
  }
}

/** What a scale reaches to show a value: a third of it is as easy to read. */
function ceiling(value: number, base: number): number {
  const unit = base ** Math.floor(Math.log(value) / Math.log(base));
  const power = unit * 10 ** Math.floor(Math.log10(value / unit));
  return ([1.2, 1.5, 2.4, 3, 4.5, 6, 9, 12].find((step) => step * power >= value) ?? 12) * power;
}

/** The newest value is at the right; where nothing is known the line is broken. */
function paths(values: Known[], top: number, span: number): [area: string, line: string] {
  let [area, line] = ["", ""];
  let first: number | undefined;
  const x = (at: number): number => WIDTH - (WIDTH * (values.length - 1 - at)) / (span - 1);
  values.forEach((value, at) => {
    const known = typeof value === "number";
    if (known) {
      const y = HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, value / top);
      line += `${first === undefined ? "M" : "L"}${x(at).toFixed(1)} ${y.toFixed(1)}`;
      area += `${first === undefined ? `M${x(at).toFixed(1)} ${HEIGHT}L` : "L"}${x(at).toFixed(1)} ${y.toFixed(1)}`;
      first ??= at;
    }
    if (first !== undefined && (!known || at === values.length - 1)) {
      area += `L${x(known ? at : at - 1).toFixed(1)} ${HEIGHT}Z`;
      // A lone second would be no line.
      line += first === at || (!known && first === at - 1) ? "h1" : "";
      first = undefined;
    }
  });
  return [area, line];
}
