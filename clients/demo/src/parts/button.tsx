import { type ReactElement, type ReactNode, useState } from "react";

interface ButtonProps {
  /** What it does; it says why that failed. */
  action: () => Promise<void> | void;
  label?: string;
  isPrimary?: boolean;
  /** It stays focusable, and does nothing. */
  isOff?: boolean;
  children: ReactNode;
}

export function Button({
  action,
  label,
  isPrimary = false,
  isOff = false,
  children,
}: ButtonProps): ReactElement {
  const [error, setError] = useState("");
  const press = async (): Promise<void> => {
    setError("");
    try {
      await action();
    } catch (cause) {
      setError(cause instanceof Error ? cause.message : String(cause));
    }
  };
  return (
    <>
      <button
        type="button"
        className={isPrimary ? "primary" : undefined}
        aria-label={label}
        aria-disabled={isOff}
        onClick={() => !isOff && void press()}
      >
        {children}
      </button>
      {error !== "" && (
        <span className="wrong" role="alert">
          {error}
        </span>
      )}
    </>
  );
}
