import type { CollectedRegistry, Sample } from './registry.ts';
import type { DurationCounts, RecordingFigures } from './sources.ts';

const noDurations: DurationCounts = { boundsUs: [], counts: [0], sumUs: 0 };

/** Of a server that has not recorded: its metrics are there, at 0. */
const noFigures: RecordingFigures = {
  bytesWritten: 0,
  queueBytes: 0,
  assemblyBytes: 0,
  openFiles: 0,
  writeLatency: noDurations,
  syncLatency: noDurations,
  failures: {},
  startFailures: {},
  finished: 0,
  salvaged: 0,
  deleted: { age: 0, count: 0, bytes: 0, orphan: 0 },
};

/** Defines the metrics of recording; `read` gives `undefined` where nothing has been recorded. */
export function defineRecordingMetrics(
  { counter, gauge, countedHistogram }: CollectedRegistry,
  read: () => RecordingFigures | undefined,
): void {
  const figures = () => read() ?? noFigures;

  counter('couplet_recording_bytes_total', 'Bytes written to recordings.', [], () => [[[], figures().bytesWritten]]);
  gauge('couplet_recording_queue_bytes', 'Bytes of recordings that wait to be written now.', [], () => [
    [[], figures().queueBytes],
  ]);
  gauge(
    'couplet_recording_assembly_bytes',
    'Bytes of messages forwarded in pieces, kept until their last piece comes.',
    [],
    () => [[[], figures().assemblyBytes]],
  );
  countedHistogram('couplet_recording_write_seconds', 'Seconds that a write to a recording took.', () =>
    inSeconds(figures().writeLatency),
  );
  countedHistogram('couplet_recording_sync_seconds', 'Seconds that a sync of a recording to the disk took.', () =>
    inSeconds(figures().syncLatency),
  );
  counter(
    'couplet_recording_failures_total',
    'Recordings that could not start or ended early, and sidecars lost, by reason.',
    ['reason'],
    () => [...byReason(figures().failures), ...byReason(figures().startFailures)],
  );

  gauge('couplet_recordings_open', 'Recordings whose file is open now.', [], () => [[[], figures().openFiles]]);
  counter('couplet_recordings_finished_total', 'Recordings that ended as they should.', [], () => [
    [[], figures().finished],
  ]);
  counter('couplet_recordings_salvaged_total', 'Unfinished recordings put in order at the start.', [], () => [
    [[], figures().salvaged],
  ]);
  counter(
    'couplet_recordings_deleted_total',
    'Files deleted by retention, by the limit; `orphan`: a sidecar without its recording.',
    ['reason'],
    () => byReason(figures().deleted),
  );
}

function byReason(counts: Readonly<Record<string, number>>): Sample[] {
  return Object.entries(counts).map(([reason, count]) => [[reason], count]);
}

function inSeconds({ boundsUs, counts, sumUs }: DurationCounts) {
  return { bounds: boundsUs.map((us) => us / 1e6), counts, sum: sumUs / 1e6 };
}
