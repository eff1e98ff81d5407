import type { Tools } from '../build.ts';
import {
  coupletDirectoryPeer,
  coupletPeer,
  coupletPortablePeer,
  coupletRecordedPeer,
  coupletTlsPeer,
} from './couplet.ts';
import { coupletClusterPeer, coupletLinkPeer, coupletLinkPortablePeer } from './couplet-link.ts';
import { floorPeer } from './floor.ts';
import { incumbentPeer, incumbentRecordedPeer } from './incumbent.ts';
import type { Peer } from './peer.ts';
import { wsPeer, wsRecordedPeer, wsTlsPeer } from './ws.ts';

/** Behind TLS, which the load generator may not speak here. */
function overTls(peer: Peer, tools: Tools): Peer {
  return { ...peer, unavailable: () => tools.tls ?? peer.unavailable() };
}

/** Every relay that can be measured. */
export function allPeers(tools: Tools): Peer[] {
  return [
    floorPeer(tools.floor),
    wsPeer,
    overTls(wsTlsPeer, tools),
    wsRecordedPeer,
    incumbentPeer,
    incumbentRecordedPeer,
    coupletPortablePeer,
    coupletPeer,
    coupletDirectoryPeer,
    overTls(coupletTlsPeer, tools),
    coupletRecordedPeer,
    coupletClusterPeer,
    coupletLinkPeer,
    coupletLinkPortablePeer,
  ];
}
