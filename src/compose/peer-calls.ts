/** What one server asks of another [K4][K9]; `cluster/` implements it. */
export interface PeerCalls {
  /** Asks one server. Rejects with CoupletError `CPL_PEER` where it does not answer within the time, milliseconds. */
  ask(boot: string, method: string, body: unknown, withinMs?: number): Promise<unknown>;
  /** Asks all other live servers at once; `silent`: boot ids of those without an answer in time. */
  askAll(
    method: string,
    body: unknown,
    withinMs?: number,
  ): Promise<{ answers: { boot: string; answer: unknown }[]; silent: string[] }>;
  /** Answers a method. The body is whatever came: the handler checks it. */
  serve(method: string, handler: (body: unknown, boot: string) => unknown): void;
}
