/** Timers can't be set for longer: they would fire at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Notices that nothing was heard for too long. */
export class Watchdog {
  readonly #timeout: number;
  readonly #onSilence: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heardAt = 0;

  /** `timeout` in milliseconds; 0 turns it off. */
  constructor(timeout: number, onSilence: () => void) {
    this.#timeout = timeout;
    this.#onSilence = onSilence;
  }

  /** Something was heard, or the watch begins. Cheap: it sets no timer when there is one. */
  heard(): void {
    this.#heardAt = Date.now();
    if (this.#timer === undefined && this.#timeout > 0) {
      this.#wait(this.#timeout);
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #wait(milliseconds: number): void {
    this.#timer = setTimeout(
      () => {
        const left = this.#heardAt + this.#timeout - Date.now();
        if (left > 0) {
          this.#wait(left);
        } else {
          this.#timer = undefined;
          this.#onSilence();
        }
      },
      Math.min(milliseconds, LONGEST_TIMER_MS),
    );
  }
}
