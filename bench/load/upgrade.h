// How a half comes to be: connecting, TLS, and the upgrade, none of which blocks.
#pragma once

#include <netinet/in.h>

#include "half.h"

enum upgrade_state { UPGRADE_GOES_ON, UPGRADE_DONE, UPGRADE_REFUSED, UPGRADE_CLOSED, UPGRADE_PROTOCOL };

/** Why the last upgrade that failed did: "upgrade of /path failed: …", without the query, which holds cookies. */
extern char upgrade_failure[256];

/** Sets what all upgrades have in common; `sources`: over how many addresses of 127/8 they spread (1: the usual one). */
void prepare_upgrades(int port, int sources);

/** Device halves connect to this port, and only user halves to the other: the relay is two servers. False: no port. */
bool use_device_port(const char *text);

/**
 * Begins to connect; `{pair}` in `path` (request target) becomes `pair`. The socket is ready to be watched, edge
 * triggered, in both directions: half_upgrade is due once now and then after each event, until the upgrade is done.
 * Ends the program where there are no descriptors or ports left.
 */
void half_begin(struct half *half, const char *path, uint64_t pair);

/**
 * Goes on as far as the socket allows. What comes behind the relay's answer goes through half_receive, so that a
 * half may be done and have `close_received` or `violated` set; the socket may hold more. In all cases but UPGRADE_GOES_ON the upgrade is over; after a failure the socket is still to be dropped.
 */
enum upgrade_state half_upgrade(struct half *half);
