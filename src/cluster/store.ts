/** [K2] What the cluster keeps in Redis. Every call has a deadline and rejects with CoupletError `CPL_REDIS`, at once while Redis is down. */
export interface ClusterStore {
  /** [K2] SET NX PX GET: undefined where the claim is ours now, else the value that stands. */
  claim(key: string, value: string, ttlMs: number): Promise<string | undefined>;
  /** Sets `value` where nothing, `value` itself or `instead` stands; returns another value that stands. */
  take(key: string, value: string, ttlMs: number, instead?: string): Promise<string | undefined>;
  /** Deletes where exactly `value` stands. */
  release(key: string, value: string): Promise<void>;
  get(key: string): Promise<string | undefined>;
  getMany(keys: readonly string[]): Promise<(string | undefined)[]>;
  /** SET GET: what stood before. */
  exchange(key: string, value: string, ttlMs: number): Promise<string | undefined>;
  /** [K5] true: fresh (SET NX PX). */
  once(fingerprint: string, ttlMs: number): Promise<boolean>;
}
