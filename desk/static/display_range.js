// The grey range of a slice without a window in its file.

// The 1st and 99.5th percentile of the values: the range from black to white.
export function displayRange(values) {
  const sorted = Float32Array.from(values).sort();
  return [sorted[Math.floor(0.01 * (sorted.length - 1))], sorted[Math.floor(0.995 * (sorted.length - 1))]];
}
