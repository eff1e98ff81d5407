import { type PictureSize, pictureSize } from './image-size.ts';

/** What a device's binary block does to the desktop's screen [M7]. */
export type DesktopCommand =
  | ({ readonly kind: 'tile'; readonly x: number; readonly y: number } & PictureSize)
  | {
      readonly kind: 'copy';
      readonly fromX: number;
      readonly fromY: number;
      readonly toX: number;
      readonly toY: number;
      readonly width: number;
      readonly height: number;
    }
  | { readonly kind: 'size'; readonly width: number; readonly height: number }
  /** Something that may draw, but cannot be told where: a cut command, a picture of unknown size. */
  | { readonly kind: 'unclear' };

const commandHeaderBytes = 4;
const tile = 3;
const copy = 4;
const screenSize = 7;
const jumbo = 27;
const jumboBytes = 8;
const unclear: DesktopCommand = { kind: 'unclear' };

/**
 * The commands of one block that concern the screen, in order. Never trusts a size: each step moves on by at least four
 * bytes, and what runs past the block ends it [M10].
 */
export function* desktopCommands(data: Buffer): Generator<DesktopCommand, void> {
  let at = 0;
  while (at + commandHeaderBytes <= data.length) {
    const isJumbo = data.readUInt16BE(at) === jumbo;
    let size = data.readUInt16BE(at + 2);
    if (isJumbo) {
      if (size !== jumboBytes || at + jumboBytes > data.length) return yield unclear;
      size = data.readUInt32BE(at + 4);
      at += jumboBytes;
    }
    if (size < commandHeaderBytes || at + size > data.length) return yield unclear;
    const command = parse(data.subarray(at, at + size));
    if (command !== undefined) yield command;
    at += size;
  }
}

/** `undefined`: it does not concern the screen. */
function parse(command: Buffer): DesktopCommand | undefined {
  switch (command.readUInt16BE(0)) {
    case tile: {
      if (command.length < 8) return unclear;
      const picture = command.subarray(8);
      if (picture.length === 0) return undefined;
      const size = pictureSize(picture);
      if (size === undefined) return unclear;
      return { kind: 'tile', x: command.readUInt16BE(4), y: command.readUInt16BE(6), ...size };
    }
    case copy:
      if (command.length < 16) return unclear;
      return {
        kind: 'copy',
        fromX: command.readUInt16BE(4),
        fromY: command.readUInt16BE(6),
        toX: command.readUInt16BE(8),
        toY: command.readUInt16BE(10),
        width: command.readUInt16BE(12),
        height: command.readUInt16BE(14),
      };
    case screenSize:
      if (command.length < 8) return unclear;
      return { kind: 'size', width: command.readUInt16BE(4), height: command.readUInt16BE(6) };
    case jumbo:
      return unclear;
    default:
      return undefined;
  }
}
