/** One message of a messenger session [R33]. */
export interface TextMessage {
  /** Arrival, milliseconds since 1970-01-01 UTC. */
  readonly time: number;
  /** Id of the party that sent it. */
  readonly from: string;
  /** A binary message in base64. */
  readonly text: string;
  readonly binary?: true;
}

/** What JSON leaves as it is and a terminal or editor does not: C1 controls, invisible and direction marks. */
const hidden = /[\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** A message as one line of a `.jsonl` file, whatever it holds (fault 34); a JSON parser gives back the very texts. */
export function textLine({ time, from, text, binary }: TextMessage): string {
  const json = JSON.stringify({ time, from, text, binary });
  return `${json.replace(hidden, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)}\n`;
}
