//! A headless browser of a test's own, driven as a person would: by what is written on things.

mod driver;
mod look;

use fantoccini::{
    Client, Locator,
    actions::{InputSource, KeyAction, KeyActions},
    elements::Element,
    error::CmdError,
};
use serde_json::{Value, json};

use self::driver::Driver;
use super::product::eventually;

pub use fantoccini::key::Key;

/// An open window. The browser ends with it, also when the test fails.
pub struct Browser {
    client: Client,
    driver: Driver,
}

impl Browser {
    /// A window whose page is so large.
    pub async fn open(width: u32, height: u32) -> Self {
        let (driver, client) = Driver::start().await;
        let browser = Self { client, driver };
        browser.resize(width, height).await;
        browser
    }

    /// Another size of the page, to the pixel: a window could not be so narrow.
    pub async fn resize(&self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.driver
            .devtools("Emulation.setDeviceMetricsOverride", &size)
            .await;
    }

    /// Whether the system says that it likes dark pages.
    pub async fn dark(&self, is_dark: bool) {
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.driver
            .devtools("Emulation.setEmulatedMedia", &media)
            .await;
    }

    /// Opens a page.
    pub async fn go(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Waits until the page has all of its parts.
    pub async fn settled(&self) {
        let settled = "return document.readyState === 'complete'
            && !document.querySelector('[hx-trigger=load], .htmx-request')";
        eventually("the page is complete", async || {
            self.try_execute(settled).await.is_ok_and(|is| is == true)
        })
        .await;
    }

    /// The value of a cookie, also of one that scripts do not see.
    pub async fn cookie(&self, name: &str) -> String {
        let cookie = self.client.get_named_cookie(name).await.unwrap();
        cookie.value().to_owned()
    }

    /// Where the window is: path and query.
    pub async fn path(&self) -> String {
        let url = self.client.current_url().await.unwrap();
        match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        }
    }

    /// Waits until the window is somewhere with this in its path or query: of two pages that read alike.
    pub async fn wait_for_path(&self, part: &str) {
        eventually(&format!("the window is at …{part}…"), async || {
            self.path().await.contains(part)
        })
        .await;
        self.settled().await;
    }

    /// What a script returns; it runs beside the page's own, whose policy does not bind it.
    pub async fn execute(&self, script: &str) -> Value {
        self.try_execute(script)
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    async fn try_execute(&self, script: &str) -> Result<Value, CmdError> {
        self.client.execute(script, Vec::new()).await
    }

    /// The text of the page, as it can be read now; none while it is being replaced.
    pub async fn text(&self) -> String {
        let text = self.try_execute("return document.body?.innerText").await;
        text.ok()
            .and_then(|text| text.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    pub async fn has_text(&self, text: &str) -> bool {
        self.text().await.contains(text)
    }

    /// Waits until the page says so.
    pub async fn wait_for_text(&self, text: &str) {
        eventually(&format!("the page says {text:?}"), async || {
            self.has_text(text).await
        })
        .await;
    }

    /// The page's heading.
    pub async fn heading(&self) -> String {
        let heading = self
            .try_execute("return document.querySelector('h1')?.innerText")
            .await;
        heading
            .ok()
            .and_then(|text| text.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// Waits until the page has this heading.
    pub async fn wait_for_heading(&self, heading: &str) {
        eventually(&format!("the page's heading is {heading:?}"), async || {
            self.heading().await == heading
        })
        .await;
    }

    pub async fn click_button(&self, name: &str) {
        self.click(&button(name)).await;
    }

    pub async fn click_link(&self, name: &str) {
        self.click(&link(name)).await;
    }

    pub async fn has_button(&self, name: &str) -> bool {
        !self.all(&button(name)).await.is_empty()
    }

    pub async fn has_link(&self, name: &str) -> bool {
        !self.all(&link(name)).await.is_empty()
    }

    /// Ticks, or unticks, a box; opens, or closes, details.
    pub async fn toggle(&self, name: &str) {
        self.click(&format!("{} | //summary[{}]", field(name), named(name)))
            .await;
    }

    /// Writes into the field with this label, over what is there.
    pub async fn fill(&self, label: &str, text: &str) {
        let field = self.find(&field(label)).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Chooses from the list with this label.
    pub async fn choose(&self, label: &str, option: &str) {
        self.find(&field(label))
            .await
            .select_by_label(option)
            .await
            .unwrap();
    }

    /// Presses one key after the other, wherever the focus is.
    pub async fn press(&self, keys: impl IntoIterator<Item = char>) {
        let mut presses = KeyActions::new("keyboard".to_owned());
        for value in keys {
            presses = presses
                .then(KeyAction::Down { value })
                .then(KeyAction::Up { value });
        }
        self.client.perform_actions(presses).await.unwrap();
    }

    /// Tabs on until the focus is on what has this name, as somebody without a mouse does.
    pub async fn tab_to(&self, name: &str) {
        let mut passed = Vec::new();
        while passed.len() < 60 {
            self.press([Key::Tab.into()]).await;
            let here = self.active_element_name().await;
            // At its end the page hands the focus to the window's own bars.
            let is_of_page = "return document.activeElement !== document.body";
            let is_seen = self.focus_shows().await || self.execute(is_of_page).await == false;
            assert!(is_seen, "the focus is on {here:?} and does not show");
            if here == name {
                return;
            }
            passed.push(here);
        }
        panic!("Tab does not lead to {name:?}, but to {passed:#?}");
    }

    /// The name of what has the focus: its label, or what is written on it.
    pub async fn active_element_name(&self) -> String {
        let name = self
            .execute(
                "const e = document.activeElement;
                 return (e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || '').trim()",
            )
            .await;
        name.as_str().unwrap().to_owned()
    }

    async fn click(&self, xpath: &str) {
        let element = self.find(xpath).await;
        element
            .click()
            .await
            .unwrap_or_else(|error| panic!("{xpath}: {error}"));
    }

    async fn find(&self, xpath: &str) -> Element {
        match self.client.find(Locator::XPath(xpath)).await {
            Ok(element) => element,
            Err(error) => panic!(
                "{xpath}: {error}\nThe page at {}:\n{}",
                self.path().await,
                self.text().await
            ),
        }
    }

    async fn all(&self, xpath: &str) -> Vec<Element> {
        self.client.find_all(Locator::XPath(xpath)).await.unwrap()
    }
}

/// The condition that this is written on something, or stands in its `aria-label`.
fn named(name: &str) -> String {
    format!(r#"normalize-space() = "{name}" or @aria-label = "{name}""#)
}

fn button(name: &str) -> String {
    format!("//button[{}]", named(name))
}

fn link(name: &str) -> String {
    format!("//a[{}]", named(name))
}

/// What a label is for, wherever the label stands.
fn field(label: &str) -> String {
    format!(
        r#"//*[@id = //label[{0}]/@for] | //label[normalize-space() = "{label}"]//input | //input[@aria-label = "{label}"]"#,
        named(label)
    )
}
