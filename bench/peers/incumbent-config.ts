/** What is written of its `config.json`. */
export interface IncumbentConfig {
  readonly settings: Readonly<Record<string, unknown>>;
  /** By domain; the default one is ''. */
  readonly domains: {
    readonly '': {
      readonly newAccounts: boolean;
      readonly sessionRecording?: {
        readonly filepath: string;
        readonly index: boolean;
        readonly protocols: readonly number[];
      };
    };
  };
}

/**
 * Its `config.json`. Alone on the loopback: plain HTTP (as behind a TLS proxy), no redirecting port, no Intel AMT port,
 * no scanner, no updates, no code-signing time stamps, no backups. Compression is off, as it is on the wire of all
 * peers. All halves come from one address: nothing it counts by address is in their way.
 */
export function incumbentConfig(port: number, recordingDir?: string): IncumbentConfig {
  return {
    settings: {
      cert: '127.0.0.1',
      WANonly: true,
      port,
      portBind: '127.0.0.1',
      exactPorts: true,
      redirPort: 0,
      mpsPort: 0,
      tlsOffload: '127.0.0.1',
      selfUpdate: false,
      sessionKey: 'bench',
      cookieIpCheck: 'none',
      webRTC: false,
      amtManager: false,
      amtScanner: false,
      meshScanner: false,
      agentTimeStampServer: false,
      noAgentUpdate: 1,
      autoBackup: false,
      compression: false,
      wsCompression: false,
      agentWsCompression: false,
      plugins: { enabled: false },
      maxInvalidLogin: { exclude: '127.0.0.1', time: 1, count: 1_000_000, coolofftime: 0 },
    },
    domains: {
      '': {
        newAccounts: false,
        ...(recordingDir !== undefined && {
          sessionRecording: { filepath: recordingDir, index: false, protocols: [1, 2, 5, 8, 9, 100, 101, 200] },
        }),
      },
    },
  };
}
