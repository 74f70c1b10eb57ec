"""The search along C and scaling, its solvers on cores and on a GPU, and what heads in closed form need of rows."""
