#!/usr/bin/env python3
"""One picture of a page in chromium, through chromedriver: shoot.py URL FILE WIDTH HEIGHT SCHEME WORD.

It waits until the page's own word for its state is WORD; a HEIGHT of 0 is all of the page. It must leave
no browser behind: the group that holds it ends when this process does.
"""
import base64, json, re, subprocess, sys, tempfile, time, urllib.request

WAIT_SECS = 60
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update", "--no-first-run"]
# The group ends when our end of its standard input closes, however that comes.
DRIVER = "chromedriver --port=0 2>&1 & cat; kill -KILL 0"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with DIRECT.open(request, timeout=WAIT_SECS) as answer:
        return json.load(answer)["value"]


def shoot(driver, url, file, width, height, scheme, word):
    line = next(line for line in driver.stdout if "successfully on port" in line)
    base = f"http://127.0.0.1:{re.search('on port ([0-9]+)', line)[1]}/session"
    options = {"browserName": "chrome", "goog:chromeOptions": {"args": ARGUMENTS}}
    session = f"{base}/{call(base, {'capabilities': {'alwaysMatch': options}})['sessionId']}"

    def devtools(command, **parameters):
        return call(f"{session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def ask(script):
        return call(f"{session}/execute/sync", {"script": f"return {script}", "args": []})

    def resize(height):
        devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=width < 600)

    resize(height or 900)
    devtools("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"}])
    call(f"{session}/url", {"url": url})
    deadline = time.monotonic() + WAIT_SECS
    while (said := ask("document.getElementById('word').textContent")) != word:
        if time.monotonic() > deadline:
            sys.exit(f"shoot: the page says {said}, not {word}")
        time.sleep(0.25)
    if not height:
        resize(ask("document.documentElement.scrollHeight"))
    if ask("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        sys.exit(f"shoot: at {width} pixels it scrolls sideways")
    # A second snapshot: what a first one cannot tell, as a change, is there.
    time.sleep(2.5)
    with open(file, "wb") as picture:
        picture.write(base64.b64decode(devtools("Page.captureScreenshot", format="png")["data"]))


def main():
    url, file, width, height, scheme, word = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        driver = subprocess.Popen(["sh", "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  start_new_session=True, env={"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home})
        try:
            shoot(driver, url, file, int(width), int(height), scheme, word)
        finally:
            driver.stdin.close()
            driver.wait()


main()
