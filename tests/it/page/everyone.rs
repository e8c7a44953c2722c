//! The page for everybody: on a phone, in the dark, by keyboard, by screen reader.

use serde_json::json;

use super::scenes::{hostile, ordinary, set, snapshot};
use super::stub::{ago, before};
use super::{assert_quiet, open, wait_word};
use crate::harness::{Browser, SHORT, eventually};

const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';

fn assert_fits(browser: &Browser, what: &str) {
    let wide = browser.run(
        "const root = document.documentElement;
         return [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility()
           && !one.closest('.spoken, .skip') && one.getBoundingClientRect().right
             > root.clientWidth + 1).map((one) => one.outerHTML.slice(0, 200))
           .concat(root.scrollWidth > root.clientWidth ? ['it scrolls sideways'] : [])",
    );
    assert_eq!(wide, json!([]), "{what}");
}

/// At 320 pixels and at all others nothing leaves the window, and every text stands out from what
/// is behind it, in both schemes and in each mood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_fits_a_phone_and_can_be_read_in_both_schemes() {
    let mut held = ordinary();
    held["last_applied_at"] = before(60);
    held["pipeline"]["queue_ready"] = json!(12);
    let mut gone = ordinary();
    gone["redis"] = json!({"ok": false, "error": "e".repeat(300)});
    let many = snapshot((0..300).map(|n| set(&format!("set_number_{n}"), n * n)).collect());
    let mut rebuilding = ordinary();
    rebuilding["state"] = json!("rebuilding");
    let scenes = [
        (ordinary(), "Live"),
        (held, "Stale"),
        (hostile(), "Live"),
        (gone, "Redis is away"),
        (many, "Live"),
        (rebuilding, "Rebuilding"),
    ];
    let (stub, browser) = open(ordinary()).await;
    let mut pages = Vec::new();
    for (scene, word) in scenes {
        stub.show(scene);
        browser.open(&stub.url());
        wait_word(&browser, word).await;
        for scheme in ["light", "dark"] {
            browser.prefer("prefers-color-scheme", scheme);
            let pale = browser.run(CONTRAST);
            assert_eq!(pale, json!([]), "{word}, {scheme}: below 4.5 to 1");
            pages.push(browser.run("return getComputedStyle(document.body).backgroundColor"));
        }
        for width in [320, 375, 768, 1024, 1920] {
            browser.resize(width, 800);
            assert_fits(&browser, &format!("{word}, {width} pixels"));
        }
    }
    assert_ne!(pages[0], pages[1], "dark differs from light");
    assert_eq!(browser.texts("#found"), [""; 0]);
    assert_quiet(&browser);
}

/// Each visible text against the colour behind it and, in a bar, against the bar: WCAG's ratio.
const CONTRAST: &str = "
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = (colour, under) => {
      canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
      canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (c) => c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92
      : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
      const own = getComputedStyle(node);
      const under = node.parentElement ? behind(node.parentElement) : [[255, 255, 255]];
      const flat = under.map((one) => rgb(own.backgroundColor, one));
      const bar = /rgb[^)]*\\)/.exec(own.backgroundImage);
      return bar ? [...flat, rgb(bar[0], flat[0])] : flat;
    };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const pale = new Set();
    let seen = 0;
    while (walk.nextNode()) {
      const node = walk.currentNode.parentElement;
      if (!walk.currentNode.nodeValue.trim() || !node.checkVisibility()) continue;
      if (node.closest('script, .skip, .spoken')) continue;
      seen += 1;
      for (const under of behind(node)) {
        const [a, b] = [light(rgb(getComputedStyle(node).color, under)), light(under)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) pale.add(`${ratio.toFixed(2)} ${walk.currentNode.nodeValue.slice(0, 40)}`);
      }
    }
    return seen > 10 ? [...pale].slice(0, 20) : ['the page is empty']";

/// Tab reaches all there is to use, in order and visibly, and no snapshot takes the focus away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_reaches_everything() {
    let mut scene = ordinary();
    let more = (0..10).map(|n| set(&format!("more_{n}"), n));
    scene["sets"].as_array_mut().unwrap().extend(more);
    let (stub, browser) = open(scene.clone()).await;
    wait_word(&browser, "Live").await;
    let wanted = browser.run(
        "return [...document.querySelectorAll('a[href], button, input, summary')]
           .filter((one) => one.checkVisibility())
           .map((one) => (one.closest('.tile')?.querySelector('.name') ?? one).textContent)",
    );
    let wanted: Vec<String> = serde_json::from_value(wanted).unwrap();
    assert!(wanted.len() > 20, "{wanted:?}");
    let mut reached = Vec::new();
    for _ in &wanted {
        browser.press(TAB);
        let focus = browser.run(
            "const one = document.activeElement; const box = one.getBoundingClientRect();
             const style = getComputedStyle(one);
             const name = one.closest('.tile')?.querySelector('.name') ?? one;
             return { text: name.textContent, width: parseFloat(style.outlineWidth),
               outline: style.outlineStyle, seen: box.bottom > 0 && box.top < innerHeight }",
        );
        assert!(focus["width"].as_f64() >= Some(2.0) && focus["outline"] == "solid", "{focus}");
        assert_eq!(focus["seen"], true, "{focus}");
        reached.push(focus["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(reached, wanted);

    // By keys alone: the table of a chart, all windows, the skip link, the search.
    let focus = |selector: &str| {
        browser.run(&format!("document.querySelector({}).focus()", json!(selector)));
    };
    focus("#tiles summary");
    browser.press(ENTER);
    wait_count(&browser, "#tiles table td", |rows| rows >= 10).await;
    assert_eq!(browser.texts("#tiles caption"), ["cities, the last hour"]);
    focus("#windows button");
    browser.press(ENTER);
    wait_count(&browser, "#windows td", |cells| cells == 20).await;
    scene["sets"][0]["cardinality"] = json!(450);
    stub.show(scene);
    eventually(SHORT, "the table to follow", async || {
        match browser.texts("#tiles table td").into_iter().next() {
            Some(text) if text == "450" => Ok(()),
            other => Err(format!("it begins with {other:?}")),
        }
    })
    .await;
    assert_eq!(browser.run("return document.activeElement.textContent"), "Show the newest 14");
    assert_eq!(browser.texts("#windows td").len(), 20);
    focus("#find");
    "more_7".chars().for_each(|key| browser.press(key));
    assert_eq!(browser.texts("#tiles .name"), ["more_7"]);
    assert_eq!(browser.text("#found"), "1 of 15 sets");
    focus(".skip");
    browser.press(ENTER);
    assert_eq!(browser.run("return document.activeElement.id"), "main");
    assert_quiet(&browser);
}

/// What a screen reader is given: places, headings, tables with names, and a word when something
/// changes rather than each second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_screen_reader_is_told_what_matters() {
    let (stub, browser) = open(ordinary()).await;
    wait_word(&browser, "Live").await;
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().unwrap();
    let names = |role: &str| -> Vec<&str> {
        let of_role = nodes.iter().filter(|node| node["role"]["value"] == role);
        of_role.map(|node| node["name"]["value"].as_str().unwrap_or_default()).collect()
    };
    for (role, many) in [("banner", 1), ("main", 1), ("contentinfo", 1), ("navigation", 1)] {
        assert_eq!(names(role).len(), many, "{role}");
    }
    let regions = ["Distinct members", "Pipeline", "Busiest groups", "Window by window"];
    assert_eq!(names("region"), regions);
    let headings = names("heading");
    for heading in ["Rollcall", "users", "users_by_city", "users_daily", "Dead letters 4"] {
        assert!(headings.contains(&heading), "{heading} is not in {headings:?}");
    }
    let tables = names("table");
    let captions = [
        "users_by_city: The 2 largest",
        "users_daily: By day, newest first",
        "Dead letters by reason",
    ];
    assert_eq!(tables, captions);
    let charts = names("image");
    assert_eq!(charts.len(), 4, "{charts:?}");
    assert!(charts[1].starts_with("users over the last hour: lowest 100,"), "{charts:?}");

    // Nothing is said while nothing changes but numbers; one word when something does.
    browser.run(
        "window.spoken = [];
         new MutationObserver(() => spoken.push(document.getElementById('say').textContent))
           .observe(document.getElementById('say'), {childList: true, characterData: true,
             subtree: true});
         window.moved = 0;
         new MutationObserver(() => moved++).observe(document.querySelector('.value'),
           {childList: true, characterData: true, subtree: true})",
    );
    for number in 0..4 {
        let mut next = ordinary();
        next["sets"][0]["cardinality"] = json!(500 + number);
        stub.show(next);
        eventually(SHORT, "a number to move", async || match browser.run("return moved") {
            moved if moved.as_i64() > Some(number) => Ok(()),
            moved => Err(moved.to_string()),
        })
        .await;
    }
    assert_eq!(browser.run("return spoken"), json!([]));
    let mut gone = ordinary();
    gone["redis"] = json!({"ok": false, "error": "no"});
    stub.show(gone);
    wait_word(&browser, "Redis is away").await;
    stub.show(ordinary());
    wait_word(&browser, "Live").await;
    let spoken = browser.run("return spoken");
    assert_eq!(spoken.as_array().unwrap().len(), 2, "{spoken}");
    assert!(spoken[0].as_str().unwrap().starts_with("Redis is away. Counts are unknown"));
    assert_eq!(spoken[1], "Live");
    // What is said of a state that lasts grows old on the screen, and is not said again.
    let mut held = ordinary();
    held["last_applied_at"] = json!(ago(20));
    held["pipeline"]["queue_ready"] = json!(12);
    stub.show(held);
    wait_word(&browser, "Stale").await;
    let notice = browser.text("#notice");
    eventually(SHORT, "the notice to grow older", async || match browser.text("#notice") {
        text if text != notice => Ok(()),
        text => Err(text),
    })
    .await;
    let spoken = browser.run("return spoken");
    assert_eq!(spoken.as_array().unwrap().len(), 3, "{spoken}");

    let moving = "return getComputedStyle(document.querySelector('.bars tbody tr'))
        .transitionDuration";
    assert_eq!(browser.run(moving), "0.4s");
    browser.prefer("prefers-reduced-motion", "reduce");
    assert_eq!(browser.run(moving), "0s");
    assert_quiet(&browser);
}

/// A key is handled after the press has been answered.
async fn wait_count(browser: &Browser, selector: &str, is_right: impl Fn(usize) -> bool) {
    eventually(SHORT, selector, async || match browser.texts(selector) {
        found if is_right(found.len()) => Ok(()),
        found => Err(format!("it has {found:?}")),
    })
    .await;
}
