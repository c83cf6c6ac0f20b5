//! What a page is checked for: its console, its requests, its accessibility, its width, its looks.

use std::path::Path;

use serde_json::Value;

use super::Browser;

const AXE: &str = include_str!("../../../vendor/axe-core/axe.min.js");

/// Boxes and texts that reach beyond the page's edge, unless they are in something that scrolls or cuts them off by
/// itself.
const STICKS_OUT: &str = r"
    const root = document.documentElement, edge = root.clientWidth;
    if (root.scrollWidth <= edge) return [];
    const kept = e => e && e !== document.body
        && (getComputedStyle(e).overflowX !== 'visible' || kept(e.parentElement));
    const found = [`the page is ${root.scrollWidth} of ${edge} wide`];
    const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node; (node = nodes.nextNode());) {
        const range = document.createRange();
        range.selectNode(node);
        const right = Math.round(range.getBoundingClientRect().right);
        if (right > edge && !kept(node.parentElement))
            found.push(`${(node.outerHTML ?? node.data).slice(0, 160)} ends at ${right}`);
    }
    return found";

/// The focus can be seen: on the screen, and with an outline or a shadow around it.
const FOCUS_SHOWS: &str = r"
    const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
    const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
    return e.matches(':focus-visible') && (outlined || style.boxShadow !== 'none')
        && box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0
        && box.left < innerWidth && box.top < innerHeight";

impl Browser {
    /// Warnings and errors in the browser's console since it was last asked for.
    pub async fn console_errors(&self) -> Vec<String> {
        let entries = self.driver.log("browser").await;
        let bad = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        entries
            .iter()
            .filter(bad)
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Every address that was asked for since this was last asked for; what the browser has within itself does not
    /// count.
    pub async fn requests(&self) -> Vec<String> {
        let mut requests = Vec::new();
        for entry in self.driver.log("performance").await {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let event = &event["message"];
            let url = match event["method"].as_str().unwrap() {
                "Network.requestWillBeSent" => &event["params"]["request"]["url"],
                "Network.webSocketCreated" => &event["params"]["url"],
                _ => continue,
            };
            let url = url.as_str().unwrap();
            let within = ["about:", "blob:", "chrome:", "chrome-untrusted:", "data:"];
            if !within.iter().any(|scheme| url.starts_with(scheme)) {
                requests.push(url.to_owned());
            }
        }
        requests
    }

    /// What axe finds serious or critical: the rule, and the elements.
    pub async fn axe(&self) -> Vec<String> {
        self.axe_by("{ resultTypes: ['violations'] }").await
    }

    /// The same by the one rule that depends on the colors.
    pub async fn axe_contrast(&self) -> Vec<String> {
        self.axe_by("{ runOnly: ['color-contrast'] }").await
    }

    async fn axe_by(&self, options: &str) -> Vec<String> {
        let load = if self.execute("return typeof axe").await == "undefined" {
            AXE
        } else {
            ""
        };
        let script = format!(
            "{load};
             return axe.run(document, {options}).then(found => found.violations
                 .filter(v => v.impact === 'serious' || v.impact === 'critical')
                 .flatMap(v => v.nodes.map(n => `${{v.id}} (${{v.impact}}): ${{n.html}} ${{n.failureSummary}}`)))"
        );
        texts(&self.client.execute(&script, Vec::new()).await.unwrap())
    }

    /// What sticks out to the right of the page, so that it scrolls sideways.
    pub async fn overflow(&self) -> Vec<String> {
        texts(&self.execute(STICKS_OUT).await)
    }

    /// Whether somebody without a mouse sees where they are.
    pub async fn focus_shows(&self) -> bool {
        self.execute(FOCUS_SHOWS).await == true
    }

    /// Writes what is in the window, as a PNG.
    pub async fn screenshot(&self, path: &Path) {
        std::fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}
