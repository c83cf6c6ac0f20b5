//! Builds again when a migration comes or goes: `sqlx::migrate!()` alone does not notice.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
