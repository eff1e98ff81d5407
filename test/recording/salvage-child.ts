import { salvageFolder } from '../../src/recording/salvage.ts';
import { guardWith } from './guard.ts';

// Run by the repair test, which kills it: tells that it begins, then salvages.
process.send!('begin', () => {
  for (const _ of salvageFolder(process.argv[2]!, { guard: guardWith() }));
  process.exit(0);
});
