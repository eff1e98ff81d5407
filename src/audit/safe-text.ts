/**
 * What JSON leaves as it is, but what breaks a line, moves text about or hides it when a log is looked at: DEL and C1
 * controls, soft hyphen, zero-width and bidirectional marks, line and paragraph separator, annotation and tag marks.
 * C0 controls and lone surrogates are escaped by JSON.stringify itself.
 */
const hidden =
  '\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}';
const hiddenInJson = new RegExp(`[${hidden}]`, 'gu');
const hiddenInText = new RegExp(`[\\u0000-\\u001f${hidden}]`, 'gu');

function escapeUnits(text: string): string {
  let escaped = '';
  for (let i = 0; i < text.length; i++) escaped += `\\u${text.charCodeAt(i).toString(16).padStart(4, '0')}`;
  return escaped;
}

/**
 * JSON on one line whatever the strings in it hold (R31, fault 34). What is escaped stands inside strings only, so a
 * JSON parser gives the very value back.
 */
export function toSafeJson(value: unknown): string {
  return JSON.stringify(value).replace(hiddenInJson, escapeUnits);
}

/** The same for text shown outside JSON (a terminal, a log): control and hidden characters become `\uXXXX`. */
export function safeText(text: string): string {
  return text.replace(hiddenInText, escapeUnits);
}
