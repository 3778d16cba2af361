import type { ReactElement, ReactNode, Ref } from "react";

interface CardProps {
  id: string;
  title: string;
  /** What it shows, and with which call of the client. */
  how: ReactNode;
  heading?: Ref<HTMLHeadingElement>;
  actions?: ReactNode;
  children: ReactNode;
}

/** A part of the page. */
export function Card({ id, title, how, heading, actions, children }: CardProps): ReactElement {
  return (
    <section className="card" id={id} aria-labelledby={`${id}-title`}>
      <div className="top">
        <h2 id={`${id}-title`} ref={heading} tabIndex={-1}>
          {title}
        </h2>
        <div className="actions">{actions}</div>
      </div>
      <p className="how">{how}</p>
      {children}
    </section>
  );
}
