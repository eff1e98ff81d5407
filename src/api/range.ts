/** Part of something that is `size` bytes long; both ends count. */
export interface ByteRange {
  readonly first: number;
  readonly last: number;
}

const single = /^bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*$/i;

/**
 * Reads a `Range` header. `undefined`: all is to be sent, because there is none, or it is of a form that a server may
 * leave aside (other units, several ranges, nonsense); `'unsatisfiable'`: nothing of it is there (416).
 */
export function readRange(header: string, size: number): ByteRange | 'unsatisfiable' | undefined {
  const match = single.exec(header);
  if (match === null) return undefined;
  const [, from = '', to = ''] = match;
  if (from === '') {
    if (to === '') return undefined;
    const length = Math.min(Number(to), size);
    return length === 0 ? 'unsatisfiable' : { first: size - length, last: size - 1 };
  }
  const first = Number(from);
  if (to !== '' && Number(to) < first) return undefined;
  if (first >= size) return 'unsatisfiable';
  return { first, last: to === '' ? size - 1 : Math.min(Number(to), size - 1) };
}

/** Whether `If-Range` lets a range count: absent, or the very validator that was given out. */
export function rangeHolds(ifRange: string, etag: string, lastModified: string): boolean {
  return ifRange === '' || ifRange === etag || ifRange === lastModified;
}
