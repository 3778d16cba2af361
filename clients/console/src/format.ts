/** Numbers as people read them at a glance, in few characters. */

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** What isn't known. */
export const NOTHING = "–";

export type Known = number | null | undefined;

const format =
  (known: (value: number) => string) =>
  (value: Known): string =>
    value === null || value === undefined ? NOTHING : known(value);

export const count = format((value) => (value < 100_000 ? WHOLE.format(value) : SHORT.format(value)));

export const rate = format((value) => (value > 0 && value < 10 ? value.toFixed(1) : count(value)));

export const percent = format((value) => `${(value * 100).toFixed(value > 0 && value < 0.1 ? 2 : 0)} %`);

export const cores = format((value) => `${(value * 100).toFixed(0)} %`);

export const seconds = format((value) => {
  if (value === 0) {
    return "0 s";
  }
  if (value < 0.001) {
    return `${(value * 1e6).toFixed(0)} µs`;
  }
  if (value < 1) {
    const millis = value * 1e3;
    return `${millis.toFixed(millis < 10 ? 1 : 0)} ms`;
  }
  return value < 60 ? `${value.toFixed(1)} s` : duration(value);
});

export const bytes = format((value) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let scaled = value;
  while (scaled >= 1024 && at < units.length - 1) {
    scaled /= 1024;
    at += 1;
  }
  return `${scaled.toFixed(scaled < 10 && at > 0 ? 1 : 0)} ${units[at]}`;
});

/** How long something has lasted, by its two largest units. */
export function duration(value: number): string {
  const units: [number, string][] = [
    [86_400, "d"],
    [3_600, "h"],
    [60, "min"],
    [1, "s"],
  ];
  const first = units.findIndex(([size]) => value >= size);
  if (first < 0) {
    return "0 s";
  }
  let rest = Math.floor(value);
  const parts = units.slice(first, first + 2).map(([size, name]) => {
    const of = Math.floor(rest / size);
    rest -= of * size;
    return of === 0 ? "" : `${of} ${name}`;
  });
  return parts.filter((part) => part !== "").join(" ");
}

/** A time of day, from RFC 3339. */
export function time(text: string | undefined): string {
  const at = new Date(text ?? "");
  return Number.isNaN(at.getTime()) ? NOTHING : at.toLocaleTimeString("en-GB");
}

/** Date and time of day. */
export function moment(text: string | undefined): string {
  const at = new Date(text ?? "");
  return Number.isNaN(at.getTime())
    ? NOTHING
    : `${at.toLocaleDateString("en-CA")} ${at.toLocaleTimeString("en-GB")}`;
}
