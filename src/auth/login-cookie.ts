/** The login cookie's name; its value is a login session's token. */
export const loginCookie = 'couplet_session';

/** A cookie's value in a Cookie header; `undefined`: it is not there. Of one that is there twice the first. */
export function cookieValue(header: string, name: string): string | undefined {
  for (const part of header.split(';')) {
    const equals = part.indexOf('=');
    if (equals > 0 && part.slice(0, equals).trim() === name) return part.slice(equals + 1).trim();
  }
  return undefined;
}
