// SPDX-License-Identifier: Apache-2.0
// An image as the tensor that a model's input takes, decoded and scaled by the browser.

const CHANNELS = [1, 3];
const LONGEST_SIDE = 8192;
const LEAST_SIDE = 5; // A shorter dimension is hardly an image's.

/** Which dimensions are height, width and channels (-1 for none); null where the input takes no image. */
export function imageAxes(input) {
  const sizes = input.bounds.map(([low, high]) => (low === high ? low : 0));
  const isSide = (axis) => sizes[axis] === 0 || sizes[axis] >= LEAST_SIDE;
  const isChannels = (axis) => CHANNELS.includes(sizes[axis]);
  if (sizes.length === 4) {
    const [first, last] = [
      { channels: 1, height: 2, width: 3 },
      { channels: 3, height: 1, width: 2 },
    ];
    const likely = input.layout === "NHWC" ? [last, first] : [first, last];
    return likely.find((axes) => isChannels(axes.channels) && isSide(axes.height) && isSide(axes.width)) ?? null;
  }
  if (sizes.length === 3) {
    if (isChannels(2) && isSide(0) && isSide(1)) return { height: 0, width: 1, channels: 2 };
    if (isSide(1) && isSide(2) && sizes[1] && sizes[2]) return { height: 1, width: 2, channels: sizes[0] === 3 ? 0 : -1 };
  }
  return null;
}

/** A file's image; raises where it has none that the browser can read. */
export async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error("it is no image that this browser can read");
  }
}

/** The pixels of an image in this size, red, green, blue and opacity of each, drawn to `canvas`. */
export function pixelsOf(bitmap, width, height, canvas) {
  if (!width || !height || width > LONGEST_SIDE || height > LONGEST_SIDE) {
    throw new Error(`an image has from 1 to ${LONGEST_SIDE} pixels each way; the shape has ${width} by ${height}`);
  }
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height).data;
}

/**
 * The values of a tensor of this shape, one image, from its pixels.
 * `scale`: [what black becomes, what white becomes]; `isBgr`: blue comes first; `isInverted`: white counts as black.
 */
export function valuesOf(pixels, shape, axes, { scale: [low, high], isBgr, isInverted }) {
  const [height, width] = [shape[axes.height], shape[axes.width]];
  const channels = axes.channels < 0 ? 1 : shape[axes.channels];
  const area = height * width;
  const isLast = axes.channels > axes.width;
  const values = new Float32Array(area * channels);
  const step = (high - low) / 255;
  for (let index = 0; index < area; index += 1) {
    for (let channel = 0; channel < channels; channel += 1) {
      const place = 4 * index;
      let value =
        channels === 1
          ? 0.299 * pixels[place] + 0.587 * pixels[place + 1] + 0.114 * pixels[place + 2]
          : pixels[place + (isBgr ? 2 - channel : channel)];
      if (isInverted) value = 255 - value;
      values[isLast ? index * channels + channel : channel * area + index] = low + value * step;
    }
  }
  return values;
}
