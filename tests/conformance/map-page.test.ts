/** The page that `ramport map` draws, in a browser. */
import { pathToFileURL } from "node:url";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { mapDifference, mapMemory, mapNumbers, type MemoryMap, writeMap } from "../../src/map/index.js";
import { openSnapshot } from "../../src/snapshot/index.js";
import { buildGuest, filled, type GuestSpec } from "../snapshot/build-guest.js";
import { describeWithChromium, startChromium } from "../support/chromium.js";
import { useWorkDir } from "../support/work-dir.js";

const HOSTILE = `<img src=x onerror="alert(1)">'"&</script>`;
const PAGES = 3000;

/** Every page of its own, but for those that are zero. */
function guest(seed: number): GuestSpec {
  const page = (index: number): Uint8Array => {
    const content = filled(1 + ((index * seed) % 250));
    new DataView(content.buffer).setUint32(0, index * seed);
    return content;
  };
  const ram = Array.from({ length: PAGES }, (_, index) => (index % 3 === 0 ? undefined : page(index)));
  return { machine: `test<1>`, blocks: { ram, [HOSTILE]: [undefined, page(1)] } };
}

describeWithChromium("the page of a map", () => {
  const workDir = useWorkDir();
  let browser: Browser;

  beforeAll(async () => {
    browser = await startChromium();
  });

  afterAll(async () => {
    await browser.close();
  });

  /** Opens the map's page; whatever goes wrong in it, and whatever it asks for, is in `complaints`. */
  async function openPage(
    map: MemoryMap,
    options: Parameters<Browser["newPage"]>[0] = {},
  ): Promise<{ readonly page: Page; readonly complaints: readonly string[] }> {
    const file = workDir.file("map.html");
    await writeMap(map, file, { labels: [HOSTILE, "b.ram"], replace: true });
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
    const complaints: string[] = [];
    const url = pathToFileURL(file).href;
    page.on("console", (message) => complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("dialog", (dialog) => complaints.push(dialog.message()));
    page.on("request", (request) => {
      if (request.url() !== url) complaints.push(request.url());
    });
    await page.goto(url);
    return { page, complaints };
  }

  async function legendOf(page: Page): Promise<Record<string, unknown>> {
    const items = await page.locator("[data-kind]").all();
    const entries = items.map(async (item): Promise<[string, unknown]> => {
      const numbers = {
        pages: Number(await item.getAttribute("data-pages")),
        bytes: Number(await item.getAttribute("data-bytes")),
      };
      expect(await item.locator(".figures").textContent()).toContain(numbers.pages.toLocaleString("en-US"));
      return [(await item.getAttribute("data-kind")) ?? "", numbers];
    });
    return Object.fromEntries(await Promise.all(entries));
  }

  /** Points at a cell and returns what the page says of it. */
  async function pointAt(page: Page, block: number, cell: number): Promise<string> {
    const canvas = page.locator(`canvas[data-block="${block}"]`);
    await canvas.focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("Home");
    for (let step = 0; step < cell; step++) await page.keyboard.press("ArrowRight");
    const cursor = await page.locator("#cursor").boundingBox();
    // The pointer must come to the same cell as the keys.
    const byKeys = await page.locator("#tip").innerText();
    await page.mouse.move(cursor!.x + cursor!.width / 2, cursor!.y + cursor!.height / 2);
    expect(await page.locator("#tip").innerText()).toBe(byKeys);
    return byKeys;
  }

  test.each(["light", "dark"] as const)("memory, %s", async (colorScheme) => {
    const snapshot = await openSnapshot(buildGuest(guest(7)));
    const map = await mapMemory(snapshot);
    const { page, complaints } = await openPage(map, { colorScheme });
    expect(await page.title()).toBe("test<1>: guest memory");
    expect(await legendOf(page)).toEqual(mapNumbers(map).kinds);
    expect(await pointAt(page, 0, 0)).toBe("ram\n0x0 to 0xfff\nZero");
    expect(await pointAt(page, 0, 19)).toBe("ram\n0x13000 to 0x13fff\nData");
    expect(await pointAt(page, 1, 1)).toBe(`${HOSTILE}\n0x1000 to 0x1fff\nRepeated`);
    await page.mouse.move(1, 1);
    expect(await page.locator("#tip").isVisible()).toBe(false);
    // Cells are painted in the colours of the legend.
    const [painted, meant] = await page.evaluate<[string, string]>(`(() => {
      const canvas = document.querySelector("canvas[data-block='1']");
      const [red, green, blue] = canvas.getContext("2d").getImageData(3, 3, 1, 1).data;
      return [\`rgb(\${red}, \${green}, \${blue})\`, getComputedStyle(document.querySelector(".swatch.k-zero")).backgroundColor];
    })()`);
    expect(painted).toBe(meant);
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("cells of several pages, and a guest address", async () => {
    const snapshot = await openSnapshot(buildGuest(guest(7)));
    const map = await mapMemory(snapshot, { maxCells: 1000 });
    expect(map.cellPages).toBe(4);
    const [ram, ...others] = map.blocks;
    const { page, complaints } = await openPage({
      ...map,
      blocks: [{ ...ram!, guestAddress: 0x1_0000_0000n }, ...others],
    });
    expect(await pointAt(page, 0, 2)).toBe(
      "ram\n0x8000 to 0xbfff\nguest 0x100008000 to 0x10000bfff\nZero: 1 page\nText: 3 pages",
    );
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("two snapshots", async () => {
    const [a, b] = [await openSnapshot(buildGuest(guest(7))), await openSnapshot(buildGuest(guest(11)))];
    const map = await mapDifference(a, b);
    const { page, complaints } = await openPage(map);
    expect(await legendOf(page)).toEqual(mapNumbers(map).kinds);
    expect(await pointAt(page, 0, 4)).toBe("ram\n0x4000 to 0x4fff\nChanged");
    expect(complaints).toEqual([]);
    await page.close();
  });

  test.each([320, 700, 2000])("%i pixels wide: nothing sticks out", async (width) => {
    const snapshot = await openSnapshot(buildGuest(guest(7)));
    const { page, complaints } = await openPage(await mapMemory(snapshot), {
      viewport: { width, height: 700 },
    });
    const room = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    expect(await page.evaluate<number>(room)).toBe(0);
    expect(complaints).toEqual([]);
    await page.close();
  });
});
