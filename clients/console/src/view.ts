/** A page of the console. */
export interface View {
  title: string;
  element: HTMLElement;
  /** There is something new of the dashboard. */
  update?: () => void;
  /** It is not to be seen any more. */
  close?: () => void;
}

/** What a page is asked to begin with, from its address: `#/tail?channel=orders.1`. */
export type Parameters = URLSearchParams;

/** The address of a page. */
export function address(page: string, parameters: Record<string, string> = {}): string {
  const query = new URLSearchParams(parameters).toString();
  return `#/${page}${query === "" ? "" : `?${query}`}`;
}
