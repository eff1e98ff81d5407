import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import type { Forwarder } from '../relay/forwarder.ts';
import { PortableForwarder } from '../relay/portable-forwarder.ts';
import { Relay, type RelayObserver } from '../relay/relay.ts';
import type { SessionRecorder } from '../relay/session.ts';
import { relaySettings } from './settings.ts';

/** The relay over its forwarders; a messenger session that is recorded takes the portable one, whatever the path is. */
export function makeRelay(
  config: Config,
  forwarder: Forwarder,
  observer: RelayObserver,
  clock: Clock,
  recorder: SessionRecorder | undefined,
): { readonly relay: Relay; readonly forwarders: readonly Forwarder[] } {
  const text = forwarder.kind === 'portable' ? forwarder : new PortableForwarder(clock);
  const pair: Forwarder['pair'] = (user, device, greeting, options, onEnd) =>
    (options.recording?.takesText ? text : forwarder).pair(user, device, greeting, options, onEnd);
  const relay = new Relay(relaySettings(config), { pair }, observer, clock, recorder);
  return { relay, forwarders: forwarder === text ? [forwarder] : [forwarder, text] };
}
