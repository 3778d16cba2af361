// A page on which a test does everything itself.
export {};
