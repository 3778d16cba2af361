/** Dark, light, or as the system is: what was chosen is remembered. */

const KEY = "foghorn-console-theme";
const NEXT = { system: "dark", dark: "light", light: "system" } as const;

type Theme = keyof typeof NEXT;

function chosen(): Theme {
  const theme = localStorage.getItem(KEY);
  return theme === "dark" || theme === "light" ? theme : "system";
}

function apply(button: HTMLButtonElement): void {
  const theme = chosen();
  document.documentElement.dataset.theme = theme;
  button.textContent = { system: "◐", dark: "●", light: "○" }[theme];
  button.title = `Colours: ${theme}`;
  button.setAttribute("aria-label", `Colours: ${theme}. Change to ${NEXT[theme]}`);
}

/** Has a button change it. */
export function themes(button: HTMLButtonElement): void {
  apply(button);
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, NEXT[chosen()]);
    apply(button);
  });
}
