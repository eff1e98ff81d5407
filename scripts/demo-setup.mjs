// What the demo needs in its directory: a user, a device group and a device. Run again it finds what it made.
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export const deviceName = 'this-machine';
const userName = 'demo';
const groupName = 'demo';

/**
 * @param couplet runs a command to its end: `(args, input) => Promise<{ code, said }>`
 * @returns the agent's state folder, and the file with its join code where it is to enrol
 */
export async function setUp({ url, data, couplet }) {
  const login = await logIn(url, join(data, 'demo.json'), couplet);
  const tokenFile = join(data, 'demo.token');
  if (!(await isGood(url, readIfThere(tokenFile)))) {
    const { secret } = await ask(url, login, 'POST', '/tokens', { name: 'demo', scopes: ['all'] });
    writeSecret(tokenFile, `${secret}\n`);
  }
  const { deviceGroups } = await ask(url, login, 'GET', '/device-groups?limit=1000');
  const group =
    deviceGroups.find(({ name }) => name === groupName) ??
    (await ask(url, login, 'POST', '/device-groups', { name: groupName }));
  const ends = { subject: userName, target: group.deviceGroupId };
  const { grants } = await ask(url, login, 'GET', `/grants?${new URLSearchParams(ends)}`);
  if (grants.length === 0) await ask(url, login, 'PUT', '/grants', { ...ends, rights: 'admin' });
  const joining = await enrolment(url, login, group.deviceGroupId, join(data, 'agent'));
  await ask(url, login, 'POST', '/logout');
  return joining;
}

/** A login session's token. Where the password kept does not open, the user is made, or gets a new password. */
async function logIn(url, file, couplet) {
  const kept = readIfThere(file);
  const first = kept === '' ? undefined : await tryLogin(url, kept);
  if (first !== undefined) return first;
  const password = randomBytes(15).toString('base64url');
  const input = `${password}\n`;
  const added = await couplet(['user', 'add', userName, '--admin', '--password-stdin'], input);
  if (added.code !== 0) {
    const changed = await couplet(['user', 'password', userName, '--password-stdin'], input);
    if (changed.code !== 0) throw new Error(added.said);
  }
  const text = `${JSON.stringify({ user: userName, password })}\n`;
  writeSecret(file, text);
  const second = await tryLogin(url, text);
  if (second === undefined) throw new Error(`the user "${userName}" cannot log in: "couplet user list" tells more`);
  return second;
}

async function tryLogin(url, body) {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(`${url}/api/v1/login`, { method: 'POST', headers, body });
  return answer.ok ? (await answer.json()).token : undefined;
}

async function isGood(url, token) {
  if (token === '') return false;
  return (await fetch(`${url}/api/v1/me`, { headers: { authorization: `Bearer ${token}` } })).ok;
}

/** The device, and whether the agent's state is that of it; else the agent enrols anew. */
async function enrolment(url, login, deviceGroup, agentState) {
  const { devices } = await ask(url, login, 'GET', `/devices?name=${deviceName}`);
  const [device] = devices;
  const state = readIfThere(join(agentState, 'agent.json'));
  const isOurs = device?.enrolled && device.revokedMs === null && state.includes(JSON.stringify(device.nodeid));
  if (isOurs) return { agentState, joinFile: undefined };
  rmSync(agentState, { recursive: true, force: true });
  const { join: code } =
    device === undefined
      ? await ask(url, login, 'POST', '/devices', { name: deviceName, deviceGroup })
      : await ask(url, login, 'POST', `/devices/${encodeURIComponent(device.nodeid)}/join-code`, {});
  const joinFile = `${agentState}.join`;
  writeSecret(joinFile, `${code}\n`);
  return { agentState, joinFile };
}

async function ask(url, token, method, path, body) {
  const answer = await fetch(`${url}/api/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  if (answer.status === 204) return undefined;
  const told = await answer.json();
  if (answer.ok) return told;
  throw new Error(`${method} ${path}: ${told.error?.message ?? answer.status}`);
}

function readIfThere(file) {
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
}

/** For its owner alone from its first moment on. */
function writeSecret(file, text) {
  const fresh = `${file}.${randomBytes(6).toString('hex')}`;
  writeFileSync(fresh, text, { mode: 0o600, flag: 'wx' });
  renameSync(fresh, file);
}
