import type { ScenarioResult } from '../results.ts';

/** Message sizes that the charts by size show, in bytes. */
export const sizes = [64, 1024, 65_536] as const;

const pairsName = /^pairs-([0-9]+)$/;

export function isRecorded({ name, load }: ScenarioResult): boolean {
  return /recorded/.test(name) || load.recorded === true || load.recording === true;
}

export function isTls({ name, load }: ScenarioResult): boolean {
  return load.tls === true || /(?:^|-)tls(?:-|$)/.test(name);
}

/** Across a link between two servers: told in words, not drawn. */
export function isLinked({ name }: ScenarioResult): boolean {
  return /-link$/.test(name);
}

/** Pairs of a scenario `pairs-N`. */
export function pairsOf({ name }: ScenarioResult): number | undefined {
  const digits = pairsName.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** The pipelined scenario of a message size, with or without recording, never over TLS. */
export function pipelined(
  scenarios: readonly ScenarioResult[],
  messageBytes: number,
  recorded: boolean,
): ScenarioResult | undefined {
  return scenarios.find(
    (scenario) =>
      scenario.kind === 'forwarding' &&
      scenario.load.messageBytes === messageBytes &&
      scenario.load.mode !== 'pingpong' &&
      pairsOf(scenario) === undefined &&
      isRecorded(scenario) === recorded &&
      !isLinked(scenario) &&
      !isTls(scenario),
  );
}

/** Scenarios `pairs-N` without TLS and recording, fewest pairs first. */
export function byPairs(scenarios: readonly ScenarioResult[]): ScenarioResult[] {
  return scenarios
    .filter((scenario) => scenario.kind === 'forwarding' && pairsOf(scenario) !== undefined)
    .sort((a, b) => pairsOf(a)! - pairsOf(b)!);
}
