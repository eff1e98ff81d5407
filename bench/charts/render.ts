import { type EChartsOption, init } from 'echarts';

export interface Size {
  readonly width: number;
  readonly height: number;
}

/**
 * A chart as SVG text, the same text for the same option. White by itself, so that it reads on a dark page too.
 * @param name what the picture shows, for those who cannot see it
 */
export function renderSvg(name: string, { width, height }: Size, option: EChartsOption): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: '#ffffff',
      textStyle: { fontFamily: 'Helvetica, Arial, sans-serif', color: '#24292f' },
      ...option,
    });
    return `${still(chart.renderToSVGString()).replace('>', ` role="img">\n<title>${escapeXml(name)}</title>`)}\n`;
  } finally {
    chart.dispose();
  }
}

/**
 * Without what only a page with the library's script has use for: styles under the mouse and names of data. Their
 * classes, and ids, count all that the process has drawn before; the file must not depend on that.
 */
function still(svg: string): string {
  return svg
    .replaceAll(/<style\b[\s\S]*?<\/style>\n*/g, '')
    .replaceAll(/ (?:class="zr[^"]*"|ecmeta_[a-z_]+="[^"]*"|pointer-events="[a-z]+")/g, '')
    .replaceAll(/\bzr\d+-/g, 'zr-');
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
