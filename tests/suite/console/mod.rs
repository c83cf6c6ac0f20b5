//! The operator console: its pages, sign-in, sessions, rights and forms.

mod behind_proxy;
mod incidents;
mod keyboard;
mod links;
mod pages;
mod purge_now;
mod replay;
mod rights;
mod screenshots;
mod session_keys;
mod sessions;
mod untrusted_text;
